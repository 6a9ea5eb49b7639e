//! The report as one HTML page that needs nothing else: the plots are drawn in it.

use std::fmt::Write;

use crate::runs::Measurement;
use crate::servers::System;
use crate::summary::{Spread, number, spread, workloads};

/// A plot: one figure of one family, a bar for each workload and system.
struct Plot {
    family: &'static str,
    figure: &'static str,
    title: &'static str,
}

const PLOTS: &[Plot] = &[
    plot("put", "per_second", "Puts per second (more is better)"),
    plot(
        "put",
        "p99_ms",
        "Puts: 99th percentile, ms (less is better)",
    ),
    plot(
        "put",
        "server_us",
        "Puts: server CPU us each, all nodes (less is better)",
    ),
    plot(
        "get",
        "per_second",
        "Linearizable gets per second (more is better)",
    ),
    plot(
        "get",
        "p99_ms",
        "Linearizable gets: 99th percentile, ms (less is better)",
    ),
    plot(
        "get",
        "server_us",
        "Linearizable gets: server CPU us each (less is better)",
    ),
    plot(
        "sget",
        "per_second",
        "Serializable gets per second (more is better)",
    ),
    plot(
        "sget",
        "p99_ms",
        "Serializable gets: 99th percentile, ms (less is better)",
    ),
    plot(
        "watch",
        "per_second",
        "Events per second to 1,000 watchers (more is better)",
    ),
    plot(
        "watch",
        "p99_ms",
        "Put sent to event read: 99th percentile, ms (less is better)",
    ),
    plot(
        "watch",
        "server_us",
        "Server CPU us per event (less is better)",
    ),
    plot(
        "leases",
        "server_cores",
        "10,000 leases: cores used by all nodes (less is better)",
    ),
    plot(
        "keys",
        "restarted_mb",
        "Many keys: MB in one node after a restart (less is better)",
    ),
    plot(
        "keys",
        "restart_s",
        "Many keys: restart of one node, s (less is better)",
    ),
];

const fn plot(family: &'static str, figure: &'static str, title: &'static str) -> Plot {
    Plot {
        family,
        figure,
        title,
    }
}

const STYLE: &str = "\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b2028; --faint: #d9dde3;
  --etcd: #8a94a3; --quorate: #1668c7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e6e9ee; --faint: #333a44; --etcd: #8c97a8;
    --quorate: #5aa9ff; } }
body { background: var(--paper); color: var(--ink); margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } text { fill: var(--ink); font-size: 11px; }
.etcd { fill: var(--etcd); } .quorate { fill: var(--quorate); }
.line { stroke: var(--faint); } .whisker { stroke: var(--ink); stroke-width: 1.2; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0 2rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--faint);
  white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; }";

/// The whole page. `facts` are lines about machine and programs, `tables` is Markdown.
pub(crate) fn page(measured: &[Measurement], facts: &[String], tables: &str) -> String {
    let mut plots = String::new();
    for plot in PLOTS {
        plots.push_str(&drawn(measured, plot).unwrap_or_default());
    }
    let facts: String = facts
        .iter()
        .map(|fact| format!("<li>{}</li>", escaped(fact)))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Quorate and etcd side by side</title>\n<style>{STYLE}</style></head>\n<body>\n\
         <h1>Quorate and etcd side by side</h1>\n<ul>{facts}</ul>\n\
         <p>Bars are medians, whiskers the least and the greatest of all rounds.\n\
         <svg class=\"key\" viewBox=\"0 0 1 1\"><rect class=\"etcd\" width=\"1\" height=\"1\"/>\
         </svg>etcd\n\
         <svg class=\"key\" viewBox=\"0 0 1 1\"><rect class=\"quorate\" width=\"1\" \
         height=\"1\"/></svg>Quorate</p>\n\
         <div class=\"plots\">\n{plots}</div>\n{}</body></html>\n",
        tables_as_html(tables)
    )
}

/// Sizes of a plot, in the units of its drawing.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;

/// A plot as a figure; `None` if it has no figures.
fn drawn(measured: &[Measurement], plot: &Plot) -> Option<String> {
    let names = workloads(measured, plot.family);
    let greatest = names
        .iter()
        .flat_map(|name| System::ALL.map(|system| spread(measured, name, system, plot.figure)))
        .flatten()
        .map(|spread| spread.greatest)
        .fold(0.0, f64::max);
    if greatest <= 0.0 {
        return None;
    }
    let group = WIDTH / names.len() as f64;
    let bar = (group * 0.36).min(46.0);
    let mut shapes = String::new();
    let mut said = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let middle = group * (place as f64 + 0.5);
        for (side, system) in System::ALL.into_iter().enumerate() {
            let Some(spread) = spread(measured, name, system, plot.figure) else {
                continue;
            };
            let left = middle + (side as f64 - 1.0) * (bar + 2.0);
            shapes.push_str(&bar_with_whisker(left, bar, greatest, &spread, system));
            said.push(format!("{name} {}: {}", system.name(), spread.shown()));
        }
        let _ = write!(
            shapes,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 8.0,
            escaped(name)
        );
    }
    let base = HEIGHT - BOTTOM;
    Some(format!(
        "<figure><figcaption>{}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\
         <line class=\"line\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{base}\" y2=\"{base}\"/>\
         {shapes}</svg></figure>\n",
        escaped(plot.title),
        escaped(&said.join("; "))
    ))
}

fn bar_with_whisker(
    left: f64,
    width: f64,
    greatest: f64,
    spread: &Spread,
    system: System,
) -> String {
    let base = HEIGHT - BOTTOM;
    let height_of = |value: f64| base - value / greatest * (base - TOP);
    let top = height_of(spread.median);
    let (high, low) = (height_of(spread.greatest), height_of(spread.least));
    let middle = left + width / 2.0;
    format!(
        "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
         height=\"{:.1}\" rx=\"2\"/>\
         <line class=\"whisker\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{high:.1}\" \
         y2=\"{low:.1}\"/>\
         <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        system.name(),
        base - top,
        high - 5.0,
        number(spread.median)
    )
}

/// The Markdown that this program writes, as HTML: headings, tables and lists.
fn tables_as_html(markdown: &str) -> String {
    let mut html = String::new();
    let mut rows = 0;
    for line in markdown.lines() {
        if let Some(row) = line.strip_prefix('|') {
            if row.starts_with("---") {
                continue;
            }
            let cell = if rows == 0 { "th" } else { "td" };
            html.push_str(if rows == 0 { "<table>\n<tr>" } else { "<tr>" });
            for text in row.trim_end_matches('|').split('|') {
                let _ = write!(html, "<{cell}>{}</{cell}>", escaped(text.trim()));
            }
            html.push_str("</tr>\n");
            rows += 1;
            continue;
        }
        if rows > 0 {
            html.push_str("</table>\n");
            rows = 0;
        }
        if let Some(title) = line.strip_prefix("### ") {
            let _ = writeln!(html, "<h2>{}</h2>", escaped(title));
        } else if !line.is_empty() {
            let _ = writeln!(html, "<p>{}</p>", escaped(line));
        }
    }
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_escapes_what_it_shows() {
        let measured = [System::Etcd, System::Quorate].map(|system| Measurement {
            workload: "put-1".to_owned(),
            family: "put",
            system,
            round: 0,
            figures: vec![("per_second", 5.0)],
            errors: 0,
            problem: None,
        });
        let tables = "### A & B\n\n| a | b |\n|---|---:|\n| <1> | 2 |\n";
        let page = page(&measured, &["1 < 2".to_owned()], tables);
        for part in [
            "<li>1 &lt; 2</li>",
            "<h2>A &amp; B</h2>",
            "<tr><th>a</th><th>b</th></tr>",
            "<tr><td>&lt;1&gt;</td><td>2</td></tr>",
            "aria-label=\"put-1 etcd: 5.00; put-1 quorate: 5.00\"",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(
            page.matches("<figure>").count(),
            1,
            "no plot without figures"
        );
        assert!(!page.contains("http"), "nothing is fetched");
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let spread = |value| Spread {
            median: value,
            least: value,
            greatest: value,
        };
        let full = bar_with_whisker(0.0, 10.0, 8.0, &spread(8.0), System::Etcd);
        let half = bar_with_whisker(0.0, 10.0, 8.0, &spread(4.0), System::Etcd);
        let height = HEIGHT - TOP - BOTTOM;
        assert!(full.contains(&format!("height=\"{height:.1}\"")), "{full}");
        assert!(
            half.contains(&format!("height=\"{:.1}\"", height / 2.0)),
            "{half}"
        );
    }
}
