//! A run as a page: a lane per node, messages as arrows between lanes, faults as bands.
//!
//! One file with an inline picture and no scripts, so that it opens anywhere and can be attached to
//! a report. Long runs are cut: a picture of a million arrows shows nothing.

use std::fmt::Write as _;
use std::time::Duration;

use crate::scenario::Scenario;
use crate::trace::{Kind, Line, Trace};

/// Arrows drawn at most; the last ones are kept, because runs end at what was violated.
const ARROWS_MAX: usize = 4_000;
const WIDTH: f64 = 1_600.0;
const LANE: f64 = 90.0;
const TOP: f64 = 60.0;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

struct Picture {
    from: Duration,
    to: Duration,
    hosts: usize,
}

impl Picture {
    fn x(&self, at: Duration) -> f64 {
        let span = (self.to - self.from).as_secs_f64().max(1e-9);
        let at = at.saturating_sub(self.from).as_secs_f64() / span;
        80.0 + at.min(1.0) * (WIDTH - 100.0)
    }

    fn y(&self, host: usize) -> f64 {
        TOP + LANE * (host as f64 + 0.5)
    }
}

/// The page of a run.
#[must_use]
pub fn page(scenario: &Scenario, trace: &Trace) -> String {
    // Gossip has a time of its own, and comes last.
    let lines = trace.lines();
    let gossip = lines
        .iter()
        .position(|line| matches!(line.kind, Kind::Gossip(_)));
    let lines = &lines[..gossip.unwrap_or(lines.len())];
    let arrows = lines
        .iter()
        .filter(|line| matches!(line.kind, Kind::Frame { .. }))
        .count();
    let mut skip = arrows.saturating_sub(ARROWS_MAX);
    let first = lines.iter().position(|line| {
        if matches!(line.kind, Kind::Frame { .. }) {
            if skip == 0 {
                return true;
            }
            skip -= 1;
        }
        false
    });
    let first = if arrows > ARROWS_MAX {
        first.unwrap_or(0)
    } else {
        0
    };
    let shown = &lines[first..];
    let picture = Picture {
        from: shown.first().map_or(Duration::ZERO, |line| line.at),
        to: shown.last().map_or(Duration::ZERO, |line| line.at),
        hosts: scenario.hosts,
    };
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html><meta charset=utf-8><title>{}</title><style>body{{font:14px sans-serif;\
         margin:1em}}svg text{{font-size:11px}}pre{{font-size:12px}}</style><h1>Seed {}</h1>\
         <p>{} hosts, {:.6} s to {:.6} s; hover for what each line is.</p>",
        scenario.seed,
        scenario.seed,
        scenario.hosts,
        picture.from.as_secs_f64(),
        picture.to.as_secs_f64()
    );
    draw(&mut out, &picture, shown);
    out += "<pre>";
    for line in shown {
        if !matches!(line.kind, Kind::Frame { .. }) {
            let _ = writeln!(out, "{}", escape(&line.to_string()));
        }
    }
    out += "</pre>";
    out
}

fn draw(out: &mut String, picture: &Picture, lines: &[Line]) {
    let height = TOP + LANE * picture.hosts as f64 + 20.0;
    let _ = write!(out, "<svg width=\"{WIDTH}\" height=\"{height}\">");
    for host in 0..picture.hosts {
        let y = picture.y(host);
        let _ = write!(
            out,
            "<text x=5 y=\"{y}\">n{}</text><line x1=80 x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\" \
             stroke=#bbb />",
            host + 1
        );
    }
    for line in lines {
        mark(out, picture, line);
    }
    *out += "</svg>";
}

fn mark(out: &mut String, picture: &Picture, line: &Line) {
    let x = picture.x(line.at);
    let title = escape(&format!("{:.6} {}", line.at.as_secs_f64(), line.text));
    let _ = match &line.kind {
        Kind::Frame { from, to, arrives } => write!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=#48c \
             stroke-opacity=.5><title>{title}</title></line>",
            picture.y(*from),
            picture.x(*arrives),
            picture.y(*to)
        ),
        Kind::Node(host) => write!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=3 fill=#262><title>{title}</title></circle>",
            picture.y(*host)
        ),
        Kind::Fault { host, time } => {
            let width = (picture.x(line.at + *time) - x).max(2.0);
            let (y, height) = match host {
                Some(host) => (picture.y(*host) - LANE / 2.0, LANE),
                None => (TOP, LANE * picture.hosts as f64),
            };
            write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                 fill=#d33 fill-opacity=.15><title>{title}</title></rect>"
            )
        }
        Kind::Client(_) => write!(
            out,
            "<rect x=\"{x:.1}\" y=30 width=2 height=10 fill=#888><title>{title}</title></rect>"
        ),
        Kind::Gossip(_) => Ok(()),
        Kind::Run => write!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=20 y2=2000 stroke=red>\
             <title>{title}</title></line>"
        ),
    };
}
