// Light or dark as the system says, unless the reader has chosen. Runs before the page is drawn, so that nothing flashes.
{
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const read = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const keep = (name) => { try { name ? localStorage.setItem("theme", name) : localStorage.removeItem("theme"); } catch { /* private mode */ } };
  const system = () => (dark.matches ? "dark" : "light");
  const paint = () => {
    root.dataset.theme = read() ?? system();
    document.getElementById("theme")?.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  };
  paint();
  dark.addEventListener("change", paint);
  addEventListener("DOMContentLoaded", () => {
    paint();
    document.getElementById("theme")?.addEventListener("click", () => {
      const chosen = root.dataset.theme === "dark" ? "light" : "dark";
      keep(chosen === system() ? null : chosen);
      paint();
    });
  });
}
