//! The report as a table for documentation, and as a page with plots.

use std::fmt::Write;

use crate::measures::{Section, Value};

impl Value {
    fn text(&self) -> String {
        match self {
            Value::Milliseconds(value) if *value < 10.0 => format!("{value:.1} ms"),
            Value::Milliseconds(value) => format!("{value:.0} ms"),
            Value::PerSecond(value) => format!("{value:.0}/s"),
            Value::Text(text) => text.clone(),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Value::Milliseconds(value) | Value::PerSecond(value) => Some(*value),
            Value::Text(_) => None,
        }
    }
}

/// All sections as Markdown.
pub(crate) fn markdown(sections: &[Section]) -> String {
    let mut page = String::new();
    for section in sections {
        let _ = writeln!(page, "## {}\n\n{}\n", section.title, section.text);
        let _ = writeln!(page, "| | {} |", section.columns.join(" | "));
        let _ = writeln!(page, "|---|{}", "---:|".repeat(section.columns.len()));
        for row in &section.rows {
            let values: Vec<String> = row.values.iter().map(Value::text).collect();
            let _ = writeln!(page, "| {} | {} |", row.name, values.join(" | "));
        }
        page.push('\n');
    }
    page
}

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Raft or Paxos?</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border: 1px solid #ccc; padding: .2em .6em; text-align: right }
td:first-child, th:first-child { text-align: left }
svg text { font: 12px sans-serif }
</style>
<h1>Raft or Paxos?</h1>
<p>Both engines in the same simulated situations.
Made by <code>cargo xtask engines-report</code>.</p>
";

/// All sections as a page that needs nothing else.
pub(crate) fn html(sections: &[Section]) -> String {
    let mut page = HEAD.to_owned();
    for section in sections {
        let (title, text) = (section.title, section.text);
        let _ = writeln!(page, "<h2>{title}</h2>\n<p>{text}</p>");
        if section.is_drawn {
            draw(&mut page, section);
        }
        page.push_str("<table>\n<tr><th></th>");
        for column in &section.columns {
            let _ = write!(page, "<th>{column}</th>");
        }
        page.push_str("</tr>\n");
        for row in &section.rows {
            let _ = write!(page, "<tr><td>{}</td>", row.name);
            for value in &row.values {
                let _ = write!(page, "<td>{}</td>", value.text());
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</table>\n");
    }
    page
}

const COLOURS: [&str; 6] = [
    "#1f5fa8", "#6ea3d8", "#b3d0ec", "#b5521b", "#e0935f", "#f3cdb0",
];

/// Bars, one group for each row.
fn draw(page: &mut String, section: &Section) {
    const BAR: f64 = 12.0;
    const LEFT: f64 = 260.0;
    const WIDTH: f64 = 560.0;
    let numbers = section.rows.iter().flat_map(|row| &row.values);
    let most = numbers.filter_map(Value::number).fold(1.0, f64::max);
    let group = BAR * section.columns.len() as f64 + 10.0;
    let legend = 18.0 * section.columns.len() as f64 + 10.0;
    let height = group * section.rows.len() as f64 + legend;
    let total = LEFT + WIDTH + 100.0;
    let _ = writeln!(
        page,
        "<svg width=\"{total}\" height=\"{height}\" role=\"img\">"
    );
    // Half of the columns are of one engine, half of the other.
    let half = section.columns.len().div_ceil(2);
    let colour = |index: usize| COLOURS[(index / half * 3 + index % half) % COLOURS.len()];
    for (index, column) in section.columns.iter().enumerate() {
        let (y, fill) = (18.0 * index as f64, colour(index));
        let _ = writeln!(
            page,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\
             <text x=\"{}\" y=\"{}\">{column}</text>",
            LEFT + 18.0,
            y + 11.0
        );
    }
    for (place, row) in section.rows.iter().enumerate() {
        let top = legend + group * place as f64;
        let _ = writeln!(
            page,
            "<text x=\"0\" y=\"{}\">{}</text>",
            top + 11.0,
            row.name
        );
        for (index, value) in row.values.iter().enumerate() {
            let Some(number) = value.number() else {
                continue;
            };
            let (y, width) = (top + BAR * index as f64, (number / most * WIDTH).max(1.0));
            let _ = writeln!(
                page,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                BAR - 1.0,
                colour(index),
                LEFT + width + 4.0,
                y + 10.0,
                value.text()
            );
        }
    }
    page.push_str("</svg>\n");
}
