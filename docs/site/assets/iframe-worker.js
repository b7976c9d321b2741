// Search on pages that are opened from a folder: browsers start no worker for file://, so its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.onmessage = this.onmessageerror = this.onerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><title>search</title>";
      this.scope = new Promise((resolve, reject) => {
        this.frame.onload = () => {
          const scope = this.frame.contentWindow;
          scope.postMessage = (data) => setTimeout(() => this.onmessage && this.onmessage({ data }));
          const script = scope.document.createElement("script");
          script.src = new URL(url, location.href);
          script.onload = () => resolve(scope);
          script.onerror = () => reject(new Error(`${script.src} could not be read`));
          scope.document.head.append(script);
        };
      });
      this.scope.catch((error) => this.onerror && this.onerror(error));
      document.documentElement.append(this.frame);
    }

    postMessage(data) {
      this.scope.then((scope) => setTimeout(() => scope.onmessage && scope.onmessage({ data })), () => {});
    }

    terminate() {
      this.frame.remove();
    }
  };
}
