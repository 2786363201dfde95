// Checks a page with axe at three widths, light and dark, with all folds open; CONTRIBUTING.md says how to run it.
//   node axe.js PAGE [FOLDER]
// With FOLDER, also writes pictures and a PDF there. CHROMIUM holds the path of the browser.
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");
const here = createRequire(path.join(process.cwd(), "x.js")); // modules of the folder it is run in
const puppeteer = here("puppeteer-core");
const axe = fs.readFileSync(here.resolve("axe-core/axe.min.js"), "utf8");

async function check(file, folder) {
  const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  let found = 0;
  for (const theme of ["light", "dark"]) {
    for (const width of [375, 800, 1400]) {
      const page = await browser.newPage();
      await page.setBypassCSP(true); // the page itself allows no script, which axe is
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
      await page.setViewport({ width, height: 1000 });
      await page.goto("file://" + path.resolve(file));
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      if (wide > width) {
        found += 1;
        console.log(`${theme} ${width}: the page is ${wide} pixels wide`);
      }
      if (folder) {
        const clip = { x: 0, y: 0, width, height: 1500 };
        await page.screenshot({ path: path.join(folder, `${theme}-${width}.png`), clip });
        if (theme === "dark" && width === 1400) await page.pdf({ path: path.join(folder, "print.pdf"), format: "A4" });
      }
      await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
      await page.evaluate(axe);
      const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      for (const one of result.violations) {
        found += one.nodes.length;
        console.log(`${theme} ${width}: ${one.id}, ${one.impact}: ${one.help} (${one.nodes.length})`);
        for (const node of one.nodes.slice(0, 3)) console.log(`  ${node.target.join(" ")}: ${node.html.slice(0, 150)}`);
      }
      await page.close();
    }
  }
  await browser.close();
  console.log(`${found} violations`);
  process.exitCode = found ? 1 : 0;
}

const [, , file, folder] = process.argv;
if (folder) fs.mkdirSync(folder, { recursive: true });
check(file, folder);
