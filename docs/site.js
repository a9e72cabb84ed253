/* What scrolls sideways can be reached and scrolled by the keyboard; the buttons of each block of code have a name. */
window.addEventListener("load", () => requestAnimationFrame(() => {
  document.querySelectorAll(".md-typeset__scrollwrap, .formula, .md-typeset p:has(> img)").forEach(box => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
  })
  document.querySelectorAll(".md-code__nav").forEach((nav, place) => { nav.ariaLabel = `Code ${place + 1}` })
}))
