//! What a node counts, read from the text form of OpenMetrics: single values, and how long 99 of
//! 100 took of whatever a histogram measured.

/// The sum of all values of a name, whatever their labels.
pub(crate) fn value(metrics: &str, name: &str) -> f64 {
    lines(metrics, name).map(|(_, value)| value).sum()
}

/// Lines of exactly this name: their labels and values.
fn lines<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value = value.split_whitespace().next()?;
        Some((labels, value.parse().ok()?))
    })
}

/// What a histogram holds: upper bounds in seconds, and how many stayed below each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    pub(crate) fn read(metrics: &str, name: &str) -> Histogram {
        let name = format!("{name}_bucket");
        let buckets = lines(metrics, &name).filter_map(|(labels, count)| {
            let bound = labels.strip_prefix("le=\"")?.strip_suffix('"')?;
            let bound = match bound {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().ok()?,
            };
            Some((bound, count))
        });
        Histogram(buckets.collect())
    }

    /// What came after `earlier`.
    pub(crate) fn since(&self, earlier: &Histogram) -> Histogram {
        if self.0.len() != earlier.0.len() {
            return self.clone();
        }
        let both = self.0.iter().zip(&earlier.0);
        Histogram(
            both.map(|((bound, count), (_, before))| (*bound, (count - before).max(0.0)))
                .collect(),
        )
    }

    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The upper bound of the bucket below which this part of all stays, in seconds.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = self.count() * part;
        let found = self.0.iter().find(|(_, count)| *count >= wanted);
        found
            .filter(|_| self.count() > 0.0)
            .map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP x_seconds Something\nx_seconds_sum 3.5\nx_seconds_count 10\n\
                           x_seconds_bucket{le=\"0.1\"} 5\nx_seconds_bucket{le=\"1.0\"} 9\n\
                           x_seconds_bucket{le=\"+Inf\"} 10\nfailures_total{lane=\"journal\"} 2\n\
                           failures_total{lane=\"bulk\"} 3\nfailures_total_other 7\n# EOF\n";

    #[test]
    fn values_of_a_name_are_added_up() {
        assert_eq!(value(METRICS, "failures_total"), 5.0);
        assert_eq!(value(METRICS, "x_seconds_count"), 10.0);
        assert_eq!(value(METRICS, "missing"), 0.0);
    }

    #[test]
    fn quantiles_are_the_bounds_of_buckets() {
        let histogram = Histogram::read(METRICS, "x_seconds");
        assert_eq!(histogram.count(), 10.0);
        assert_eq!(histogram.quantile(0.5), Some(0.1));
        assert_eq!(histogram.quantile(0.9), Some(1.0));
        assert_eq!(histogram.quantile(0.99), Some(f64::INFINITY));
        assert_eq!(histogram.since(&histogram).quantile(0.99), None);
        assert_eq!(Histogram::read(METRICS, "none").quantile(0.5), None);
    }
}
