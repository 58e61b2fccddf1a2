//! The names of metrics in dashboards and alerts, and those that there are. That docs/operations.md has each family of
//! `/metrics` and no other is a test of spectrum-user.

use std::collections::BTreeSet;

/// What Prometheus adds to the name of a histogram.
pub(crate) const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// The names that the table of `operations` has.
pub(crate) fn documented(operations: &str) -> BTreeSet<String> {
    let rows = operations.lines().filter(|line| line.starts_with("| `spectrum_"));
    rows.filter_map(|row| row.split('|').nth(1)).flat_map(used).collect()
}

/// The names that `text` uses, in whatever form.
pub(crate) fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("spectrum_")).map(ToOwned::to_owned).collect()
}

/// Those that `text` uses and nobody has.
pub(crate) fn unknown(text: &str, documented: &BTreeSet<String>) -> BTreeSet<String> {
    let exists = |name: &String| {
        let of_histogram = OF_HISTOGRAMS.iter().find_map(|ending| name.strip_suffix(ending));
        documented.contains(name) || of_histogram.is_some_and(|name| documented.contains(name))
    };
    used(text).into_iter().filter(|name| !exists(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use xtask::workspace;

    use super::*;

    fn read(path: &str) -> String {
        fs::read_to_string(workspace::root().join(path)).unwrap()
    }

    #[test]
    fn dashboards_and_alerts_ask_for_metrics_that_there_are() {
        let documented = documented(&read("docs/operations.md"));
        assert!(documented.len() > 30, "{documented:?}");
        for file in
            ["grafana/spectrum.json", "prometheus/spectrum.rules.yml", "prometheus/spectrum.rules.test.yml"]
        {
            let text = read(&format!("packaging/{file}"));
            assert!(!used(&text).is_empty(), "{file} asks for nothing");
            assert_eq!(unknown(&text, &documented), BTreeSet::new(), "{file}");
        }
    }

    #[test]
    fn a_dashboard_shows_every_metric_that_has_a_rate() {
        let dashboard = used(&read("packaging/grafana/spectrum.json"));
        // Twins of others, and what is nothing unless something is wrong with the program.
        let elsewhere = [
            "spectrum_dropped_records_total",
            "spectrum_failed_looks_total",
            "spectrum_followed_clients_total",
            "spectrum_headerless_answers_total",
            "spectrum_uncounted_events_total",
        ];
        let documented = documented(&read("docs/operations.md"));
        for name in documented.iter().filter(|name| name.ends_with("_total")) {
            assert!(
                dashboard.contains(name) || elsewhere.contains(&&**name),
                "the dashboard says nothing of {name}"
            );
        }
    }

    #[test]
    fn a_name_is_found_in_any_expression() {
        let names = |text: &str| used(text).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(names("rate(spectrum_a_total{x=\"y\"}[5m])/spectrum_b"), "spectrum_a_total spectrum_b");
        let known = BTreeSet::from(["spectrum_a_seconds".to_owned()]);
        assert_eq!(unknown("spectrum_a_seconds_bucket spectrum_c", &known).len(), 1);
    }
}
