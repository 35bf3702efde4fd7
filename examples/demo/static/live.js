// Shows at once, on an open page, that its session has ended. Without this script the next click shows it.
"use strict";

const notice = document.getElementById("ended");
const PAUSE = 3000; // milliseconds

function watch() {
  const stream = new EventSource(notice.dataset.watch);
  stream.onmessage = (event) => {
    const isOurs = JSON.parse(event.data) === notice.dataset.user;
    notice.hidden = isOurs;
    document.documentElement.dataset.live = isOurs;
    if (!isOurs) stream.close();
  };
  stream.onerror = () => {
    // The session has ended, or the server is unreachable. The browser asks again by itself, unless it got an error.
    document.documentElement.dataset.live = false;
    if (stream.readyState === EventSource.CLOSED) setTimeout(watch, PAUSE);
  };
}

watch();
