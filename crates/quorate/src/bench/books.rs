//! What a run keeps count of.

use std::collections::BTreeMap;

use super::latency::{Latencies, Nanoseconds};
use super::links::Links;

/// Failures by what was said about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    counts: BTreeMap<String, u64>,
    total: u64,
}

impl Errors {
    /// Counts failures. Beyond `texts_max` different texts they are counted as others.
    pub(crate) fn count(&mut self, text: &str, failures: u64, texts_max: usize) {
        self.total += failures;
        if let Some(count) = self.counts.get_mut(text) {
            *count += failures;
            return;
        }
        let text = if self.counts.len() < texts_max {
            text
        } else {
            "others"
        };
        *self.counts.entry(text.to_owned()).or_default() += failures;
    }

    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many of each.
    pub(crate) fn by_text(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    fn add(&mut self, other: &Errors) {
        self.total += other.total;
        for (text, count) in &other.counts {
            *self.counts.entry(text.clone()).or_default() += count;
        }
    }
}

/// One kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What was done: `put`, `event`.
    pub(crate) name: &'static str,
    /// How long each took.
    pub(crate) latencies: Latencies,
    /// When the first was due that counts, and when the last was done.
    pub(crate) span: Option<(Nanoseconds, Nanoseconds)>,
}

impl Series {
    pub(crate) fn new(name: &'static str) -> Series {
        Series {
            name,
            latencies: Latencies::new(),
            span: None,
        }
    }

    /// Something that began, or should have begun, at one moment, is done at another.
    pub(crate) fn record(&mut self, began: Nanoseconds, done: Nanoseconds) {
        self.latencies.record(done.saturating_sub(began));
        let (first, last) = self.span.get_or_insert((began, done));
        *first = began.min(*first);
        *last = done.max(*last);
    }

    /// From the first beginning to the last end, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.span
            .map_or(0.0, |(first, last)| (last - first) as f64 / 1e9)
    }

    fn add(&mut self, other: &Series) {
        assert_eq!(self.name, other.name, "all threads do the same");
        self.latencies.add(&other.latencies);
        self.span = match (self.span, other.span) {
            (Some(ours), Some(theirs)) => Some((ours.0.min(theirs.0), ours.1.max(theirs.1))),
            (ours, theirs) => ours.or(theirs),
        };
    }
}

/// All that a thread, or all threads together, have to say in the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) series: Vec<Series>,
    pub(crate) errors: Errors,
    /// Operations that ended well, those of the warm-up and the preparation included.
    pub(crate) operations: u64,
    /// What else is to be said: name and number.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What the servers held when the load had ended, its connections still open.
    pub(crate) server_resident_bytes: Vec<u64>,
    /// Connections that were lost: how many for each endpoint, and why the last.
    pub(crate) losses: BTreeMap<String, (u64, String)>,
    /// Why the run ended before its time.
    pub(crate) aborted: Option<String>,
}

impl Books {
    /// Takes down what became of the connections.
    pub(crate) fn take_losses(&mut self, links: &Links) {
        for (endpoint, count, reason) in links.losses() {
            let loss = (count, reason.to_owned());
            self.losses.insert(endpoint.to_owned(), loss);
        }
    }

    /// Adds what another thread has to say.
    pub(crate) fn add(&mut self, other: &Books) {
        for series in &other.series {
            match self.series.iter_mut().find(|own| own.name == series.name) {
                Some(own) => own.add(series),
                None => self.series.push(series.clone()),
            }
        }
        self.errors.add(&other.errors);
        self.operations += other.operations;
        for (name, count) in &other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        for (endpoint, (count, reason)) in &other.losses {
            let own = self
                .losses
                .entry(endpoint.clone())
                .or_insert_with(|| (0, reason.clone()));
            own.0 += count;
        }
        if self.server_resident_bytes.is_empty() {
            self.server_resident_bytes
                .clone_from(&other.server_resident_bytes);
        }
        if self.aborted.is_none() {
            self.aborted.clone_from(&other.aborted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_text_within_a_limit() {
        let mut errors = Errors::default();
        for number in 0..10 {
            errors.count(&format!("error {}", number % 5), 1, 3);
        }
        let counts: Vec<(&str, u64)> = errors
            .by_text()
            .iter()
            .map(|(text, count)| (text.as_str(), *count))
            .collect();
        assert_eq!(
            counts,
            [
                ("error 0", 2),
                ("error 1", 2),
                ("error 2", 2),
                ("others", 4)
            ]
        );
        assert_eq!(errors.total(), 10);
    }

    #[test]
    fn a_series_lasts_from_the_first_beginning_to_the_last_end() {
        let mut series = Series::new("put");
        assert_eq!(series.seconds(), 0.0);
        for (began, done) in [(500, 1_000), (200, 700)] {
            series.record(began * 1_000_000, done * 1_000_000);
        }
        assert_eq!(series.seconds(), 0.8);
    }

    #[test]
    fn books_of_threads_add_up() {
        let mut books = Books::default();
        for (began, done) in [(5, 10), (2, 7)] {
            let mut series = Series::new("put");
            series.record(began, done);
            let mut other = Books {
                series: vec![series],
                operations: 1,
                ..Books::default()
            };
            other.errors.count("no", 2, 9);
            other.counts.insert("missing", 3);
            other.losses.insert("a".to_owned(), (1, "gone".to_owned()));
            books.add(&other);
        }
        assert_eq!(books.series.len(), 1);
        assert_eq!(books.series[0].span, Some((2, 10)));
        assert_eq!(books.series[0].latencies.summary().count, 2);
        assert_eq!((books.operations, books.errors.total()), (2, 4));
        assert_eq!(books.counts["missing"], 6);
        assert_eq!(books.losses["a"], (2, "gone".to_owned()));
    }
}
