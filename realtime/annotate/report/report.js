"use strict";
{
  const player = document.querySelector(".player");
  const video = player?.querySelector("video");
  const note = document.getElementById("player-note");
  const sources = player ? JSON.parse(player.dataset.sources) : [];
  const heads = [...document.querySelectorAll(".playhead")];
  const timed = [...document.querySelectorAll("[data-track]")];
  const duration = Number(document.body.dataset.duration) || 0;
  let next = 0;
  let wanted = null;

  // The next source that has not failed; after the last one, the note says what to do.
  function load() {
    if (next < sources.length) {
      video.hidden = false;
      video.src = sources[next++];
    } else {
      video.hidden = true;
      note.hidden = false;
      next = 0;
      wanted = null;
    }
  }

  function play(time) {
    if (!video) return;
    if (!video.getAttribute("src") || video.hidden) {
      wanted = time;
      next = 0;
      load();
      return;
    }
    if (video.readyState < 1) {
      wanted = time;
      return;
    }
    video.currentTime = time;
    video.play().catch(() => {});
  }

  if (video) {
    video.addEventListener("error", load);
    video.addEventListener("loadedmetadata", () => {
      note.hidden = true;
      if (wanted !== null) {
        const time = wanted;
        wanted = null;
        play(time);
      }
    });
    video.addEventListener("timeupdate", () => {
      const length = duration || video.duration;
      for (const head of heads) {
        head.hidden = false;
        head.style.left = `${Math.min(100, (100 * video.currentTime) / length)}%`;
      }
    });
    if (player.dataset.beside === "yes") load();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-time]");
    if (button) {
      for (const each of timed) each.classList.toggle("now", each.dataset.track === button.dataset.track);
      play(Number(button.dataset.time));
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      player?.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
      return;
    }
    const chart = event.target.closest(".curve");
    if (chart && video) {
      const box = chart.getBoundingClientRect();
      play(((event.clientX - box.left) / box.width) * (duration || video.duration || 0));
    }
  });
}
