(() => {
  const codes = document.getElementById("codes");
  if (codes) {
    codes.addEventListener("click", () => {
      const show = codes.getAttribute("aria-pressed") !== "true";
      for (const item of document.querySelectorAll("details.code")) item.open = show;
      codes.setAttribute("aria-pressed", String(show));
      codes.textContent = show ? "Hide code" : "Show code";
    });
  }
  // a link into the page opens what it leads to
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const code = target && target.querySelector("details.code");
    if (code) code.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
  const links = new Map();
  for (const link of document.querySelectorAll(".toc a")) {
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (target) links.set(target, link);
  }
  const mark = () => {
    let current = links.values().next().value;
    for (const [target, link] of links) {
      link.classList.remove("here");
      if (target.getBoundingClientRect().top < innerHeight / 3) current = link;
    }
    if (current) current.classList.add("here");
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
