//! The expressions of the dashboard: each has a result with the labels that it speaks of, where metrics have the labels that
//! docs/operations.md gives them. Shows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::metric_names::{self, OF_HISTOGRAMS};

/// The value of every label of the metrics that are made up, and that of the label whose value some expressions choose by.
const ANY: &str = "x";
const OF_END: (&str, &str) = ("end", "denied-x");

/// The labels that the table of `operations` gives each metric.
pub(crate) fn labels(operations: &str) -> BTreeMap<String, Vec<String>> {
    let mut labels = BTreeMap::new();
    for row in operations.lines().filter(|line| line.starts_with("| `spectrum_")) {
        let mut cells = row.split('|').skip(1);
        let (names, words) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
        let words: Vec<String> = words.map(ToOwned::to_owned).collect();
        for name in metric_names::used(names) {
            labels.insert(name, words.clone());
        }
    }
    labels
}

/// What a panel of the dashboard asks for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Query {
    /// The expression, with something in the place of each variable.
    pub(crate) expression: String,
    /// The name of each of its results, with labels in double braces.
    legend: String,
}

/// What all panels ask for.
pub(crate) fn queries(dashboard: &str) -> Result<Vec<Query>> {
    let dashboard: Value = serde_json::from_str(dashboard).context("read the dashboard")?;
    let mut found = Vec::new();
    let mut left = vec![&dashboard];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                let text = |name: &str| fields.get(name).and_then(Value::as_str);
                found.extend(text("expr").map(|expression| {
                    Query {
                        expression: expression
                            .replace("$__rate_interval", "5m")
                            .replace("$instance", ".*")
                            .replace("$service", ".*"),
                        legend: text("legendFormat").unwrap_or_default().to_owned(),
                    }
                }));
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The labels by which an expression keeps results apart.
fn kept(expression: &str) -> BTreeSet<&str> {
    let lists = expression.split(" by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',')).map(str::trim).collect()
}

impl Query {
    /// The labels of its expression that a metric of its lacks, each with the metric, and those of its legend that its results lack.
    pub(crate) fn lacking(&self, labels: &BTreeMap<String, Vec<String>>) -> Vec<String> {
        let kept = kept(&self.expression);
        let shown = self.legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        let mut lacking: Vec<String> =
            shown.filter(|label| !kept.contains(label)).map(|label| format!("{label} of a result")).collect();
        for name in metric_names::used(&self.expression) {
            let (base, is_bucket) = base(&name);
            let known = labels.get(base).map(Vec::as_slice).unwrap_or_default();
            let is_known = |label: &str| {
                known.iter().any(|other| other == label)
                    || label == "instance"
                    || (is_bucket && label == "le")
            };
            let unknown = kept.iter().filter(|label| !is_known(label));
            lacking.extend(unknown.map(|label| format!("{label} of {name}")));
        }
        lacking
    }
}

/// The name of the family that a metric is of, and whether it is a bucket of a histogram.
fn base(name: &str) -> (&str, bool) {
    let of_histogram = OF_HISTOGRAMS.iter().find_map(|ending| name.strip_suffix(ending));
    (of_histogram.unwrap_or(name), name.ends_with("_bucket"))
}

/// A file for `promtool test rules` that asks all of them.
pub(crate) fn test(queries: &[Query], labels: &BTreeMap<String, Vec<String>>) -> String {
    let value = |label: &str| if label == OF_END.0 { OF_END.1 } else { ANY };
    let mut text = String::from(
        "rule_files: []\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n",
    );
    let names: BTreeSet<String> =
        queries.iter().flat_map(|query| metric_names::used(&query.expression)).collect();
    for name in &names {
        let (base, is_bucket) = base(name);
        let mut pairs = vec![format!("instance=\"{ANY}\"")];
        pairs.extend(
            labels.get(base).into_iter().flatten().map(|label| format!("{label}=\"{}\"", value(label))),
        );
        for bound in if is_bucket { &[", le=\"1\"", ", le=\"+Inf\""][..] } else { &[""] } {
            let _ = writeln!(
                text,
                "      - series: '{name}{{{}{bound}}}'\n        values: '1+1x40'",
                pairs.join(", ")
            );
        }
    }
    text.push_str("    promql_expr_test:\n");
    for Query { expression, .. } in queries {
        let mut kept = kept(expression);
        kept.remove("le");
        let pairs: Vec<String> = kept.iter().map(|label| format!("{label}=\"{}\"", value(label))).collect();
        // Whatever it is: what counts is that it is, and what it is called.
        let _ = writeln!(
            text,
            "      - expr: '({expression}) * 0'\n        eval_time: 30m\n        exp_samples:\n          - labels: '{{{}}}'\n            value: 0",
            pairs.join(", ")
        );
    }
    text
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
    fn every_label_of_the_dashboard_is_one_of_its_metric() {
        let labels = labels(&read("docs/operations.md"));
        let queries = queries(&read("packaging/grafana/spectrum.json")).unwrap();
        assert!(queries.len() > 30, "{queries:?}");
        for query in queries {
            assert_eq!(query.lacking(&labels), Vec::<String>::new(), "{query:?}");
        }
    }

    #[test]
    fn an_expression_is_asked_for_with_the_labels_that_it_keeps() {
        let labels =
            labels("| `spectrum_a`, `spectrum_b` | service, kind | Things. |\n| `spectrum_c` | | No. |\n");
        let query = |expression: &str, legend: &str| Query {
            expression: expression.to_owned(),
            legend: legend.to_owned(),
        };
        let good =
            query("sum by (service, le) (rate(spectrum_a_bucket{service=~\".*\"}[5m]))", "of {{service}}");
        assert_eq!(good.lacking(&labels), Vec::<String>::new());
        let bad = query("sum by (service) (spectrum_c)", "{{service}} by {{kind}}");
        assert_eq!(bad.lacking(&labels), ["kind of a result", "service of spectrum_c"]);
        let text = test(&[good], &labels);
        assert!(
            text.contains("'spectrum_a_bucket{instance=\"x\", service=\"x\", kind=\"x\", le=\"1\"}'"),
            "{text}"
        );
        assert!(text.contains("labels: '{service=\"x\"}'"), "{text}");
    }
}
