//! One result, as a line of a table or a JSON object. Measures nothing.

use serde_json::json;

use crate::style::Style;

use super::statistics::Spread;

/// What somebody hopes for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// At most that many times the peer's value.
    Ratio(f64),
    /// At most that value.
    Value(f64),
}

/// One result.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The benchmark.
    pub(super) bench: &'static str,
    /// Under which circumstances, such as the address family.
    pub(super) case: String,
    /// What was measured.
    pub(super) subject: String,
    /// What it is compared with.
    pub(super) peer: Option<Peer>,
    /// The median of what was measured.
    pub(super) value: f64,
    /// The unit of the values.
    pub(super) unit: &'static str,
    /// What the value or the ratio should be.
    pub(super) goal: Option<Goal>,
}

/// The other side of a comparison.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its name.
    pub(super) name: String,
    /// The median of what was measured of it.
    pub(super) value: f64,
    /// The ratios of the subject to it, pair by pair.
    pub(super) ratio: Spread,
}

impl Row {
    /// Whether the goal is met; `None` without one.
    pub(super) fn met(&self) -> Option<bool> {
        match self.goal? {
            Goal::Ratio(most) => Some(self.peer.as_ref()?.ratio.median <= most),
            Goal::Value(most) => Some(self.value <= most),
        }
    }

    /// The row as one line of JSON.
    pub(super) fn to_json(&self) -> String {
        let peer = self.peer.as_ref();
        json!({
            "bench": self.bench,
            "case": self.case,
            "subject": self.subject,
            "peer": peer.map(|peer| &peer.name),
            "value": self.value,
            "peer_value": peer.map(|peer| peer.value),
            "unit": self.unit,
            "ratio": peer.map(|peer| peer.ratio.median),
            "ratio_low": peer.map(|peer| peer.ratio.low),
            "ratio_high": peer.map(|peer| peer.ratio.high),
            "goal": self.goal_in_words(),
            "met": self.met(),
        })
        .to_string()
    }

    fn goal_in_words(&self) -> Option<String> {
        Some(match self.goal? {
            Goal::Ratio(most) => format!("ratio <= {most}"),
            Goal::Value(most) => format!("value <= {most}"),
        })
    }
}

/// Prints `rows` for a person.
pub(super) fn print_table(rows: &[Row]) {
    let style = Style::of_stdout();
    let head = format!(
        "  {:<9} {:<13} {:>10} {:<6} {:>7} {:<13} {:<8}",
        "case", "subject", "median", "unit", "ratio", "middle half", "to"
    );
    println!("{}", style.faint(&head));
    for row in rows {
        let (ratio, spread, peer) = row.peer.as_ref().map_or_else(Default::default, |peer| {
            let Spread { low, median, high } = peer.ratio;
            (format!("{median:.3}"), format!("{low:.3}-{high:.3}"), peer.name.clone())
        });
        let goal = match (row.met(), row.goal_in_words()) {
            (Some(true), Some(goal)) => style.good(&format!("goal met: {goal}")),
            (Some(false), Some(goal)) => style.bad(&format!("goal missed: {goal}")),
            _ => String::new(),
        };
        let Row { case, subject, value, unit, .. } = row;
        let line = format!(
            "  {case:<9} {subject:<13} {value:>10.1} {unit:<6} {ratio:>7} {spread:<13} {peer:<8} {goal}"
        );
        println!("{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(goal: Option<Goal>, ratio: f64) -> Row {
        let ratio = Spread { low: ratio, median: ratio, high: ratio };
        Row {
            bench: "connect",
            case: "ipv4".to_owned(),
            subject: "sk_lookup".to_owned(),
            peer: Some(Peer { name: "bind".to_owned(), value: 20.0, ratio }),
            value: 21.0,
            unit: "us",
            goal,
        }
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        assert_eq!(row(Some(Goal::Ratio(1.03)), 1.03).met(), Some(true));
        assert_eq!(row(Some(Goal::Ratio(1.03)), 1.04).met(), Some(false));
        assert_eq!(row(Some(Goal::Value(20.0)), 1.0).met(), Some(false));
        assert_eq!(row(None, 1.0).met(), None);
    }

    #[test]
    fn a_row_is_one_json_object_with_every_field() {
        let json = row(Some(Goal::Ratio(1.03)), 1.02).to_json();
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        for field in
            ["bench", "case", "subject", "peer", "value", "peer_value", "unit", "ratio", "goal", "met"]
        {
            assert!(object.get(field).is_some_and(|value| !value.is_null()), "{field} in {json}");
        }
        assert!(!json.contains('\n'));
    }
}
