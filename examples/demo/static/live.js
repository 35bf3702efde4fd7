// Shows at once, on an open page, that its session has ended. Without this script the next click shows it.
"use strict";

const notice = document.getElementById("ended");
const address = new URL(notice.dataset.watch, location.href);
address.protocol = address.protocol.replace("http", "ws");

const ENDED = 1008;
const PAUSE = 3000; // milliseconds

function watch() {
  const socket = new WebSocket(address);
  let isOurs = false; // the server confirmed that this browser is signed in as the user of this page
  socket.onmessage = (event) => {
    isOurs = event.data === notice.dataset.user;
    notice.hidden = isOurs;
    document.documentElement.dataset.live = isOurs;
  };
  socket.onclose = (event) => {
    document.documentElement.dataset.live = false;
    if (event.code !== ENDED) setTimeout(watch, PAUSE); // the server is unreachable
    else if (isOurs) watch(); // perhaps signed in again in another tab: ask again
    else notice.hidden = false;
  };
}

watch();
