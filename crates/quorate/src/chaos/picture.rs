//! What a person sees: a picture that moves where the output is a terminal, else a line for each
//! thing that happens.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use super::sight::Sight;
use crate::table::thousands;

/// The widest line: a terminal has so many columns, unless somebody made it wider.
const COLUMNS: usize = 79;

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) seed: u64,
    pub(super) elapsed: Duration,
    pub(super) whole: Duration,
    pub(super) faults: u64,
    /// What is being done, or waited for.
    pub(super) now: String,
    /// What was done to which node, if that is not over.
    pub(super) struck: Option<(String, &'static str)>,
    pub(super) sight: Sight,
    pub(super) answered: u64,
    pub(super) per_second: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    /// Since all was well again after the last fault.
    pub(super) since_heal: Option<Duration>,
    pub(super) slowest_heal: Duration,
}

/// The output.
#[derive(Debug)]
pub(super) struct Picture {
    is_terminal: bool,
    /// Lines of the picture that stand on the screen.
    drawn: usize,
}

impl Picture {
    pub(super) fn new() -> Picture {
        Picture {
            is_terminal: std::io::stdout().is_terminal(),
            drawn: 0,
        }
    }

    /// A line that stays, above the picture.
    pub(super) fn say(&mut self, line: &str) {
        let erase = self.erase();
        put(&format!("{erase}{line}\n"));
    }

    /// The picture as it is now.
    pub(super) fn draw(&mut self, view: &View) {
        if !self.is_terminal {
            return;
        }
        let lines = lines(view);
        let erase = self.erase();
        self.drawn = lines.len();
        put(&format!("{erase}{}\n", lines.join("\n")));
    }

    /// Takes the picture away for good.
    pub(super) fn end(&mut self) {
        put(&self.erase());
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }
}

/// Nobody may be there to read any more, which is no reason to stop.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Minutes and seconds.
pub(super) fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn lines(view: &View) -> Vec<String> {
    let rule = "─".repeat(COLUMNS);
    let mut lines = vec![
        rule.clone(),
        format!(
            "{} of {}   seed {}   fault {}: {}",
            clock(view.elapsed),
            clock(view.whole),
            view.seed,
            view.faults,
            view.now
        ),
        String::new(),
        format!(
            "{:<6}{:<12}{:<22}{:>8}{:>10}{:>9}",
            "node", "state", "leads", "holds", "in doubt", "behind"
        ),
    ];
    let names = view.sight.nodes.keys();
    lines.extend(names.map(|name| node_line(view, name)));
    let healed = match view.since_heal {
        Some(time) => format!("all well for {}", clock(time)),
        None => view.sight.complaint().unwrap_or_default(),
    };
    lines.push(String::new());
    lines.push(format!(
        "{} calls a second, {} answered, {} refused, {} of unknown outcome",
        view.per_second,
        thousands(view.answered),
        thousands(view.refused),
        thousands(view.unknown)
    ));
    lines.push(format!(
        "{healed}; the slowest healing took {:.1} s",
        view.slowest_heal.as_secs_f64()
    ));
    lines.push(rule);
    lines.iter().map(|line| cut(line)).collect()
}

fn node_line(view: &View, name: &str) -> String {
    let struck = view.struck.as_ref().filter(|(node, _)| node == name);
    let Some((leads, holds, doubts)) = view.sight.counts(name) else {
        let state = struck.map_or("no answer", |(_, state)| state);
        return format!("{name:<6}{state:<12}");
    };
    let state = match struck {
        Some((_, state)) => state,
        None if doubts > 0 => "repairs",
        None => "serves",
    };
    let behind = view.sight.behind(name).unwrap_or(0);
    let bar = "■".repeat(leads.min(20));
    format!("{name:<6}{state:<12}{bar:<22}{holds:>8}{doubts:>10}{behind:>9}")
}

fn cut(line: &str) -> String {
    line.chars().take(COLUMNS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_fits_a_terminal() {
        let mut view = View {
            now: "a long story ".repeat(20),
            struck: Some(("n2".to_owned(), "cut off")),
            ..View::default()
        };
        view.sight.nodes.insert("n1".to_owned(), Some(Vec::new()));
        view.sight.nodes.insert("n2".to_owned(), None);
        let lines = lines(&view);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS));
        assert!(lines.iter().any(|line| line.starts_with("n1    serves")));
        assert!(lines.iter().any(|line| line.starts_with("n2    cut off")));
        assert_eq!(clock(Duration::from_secs(61)), "1:01");
    }
}
