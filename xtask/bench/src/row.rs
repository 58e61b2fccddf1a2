//! One result, and whether it is what somebody hoped for. Measures nothing, and is shown by others.

use serde_json::json;

use super::statistics::Spread;

/// A hope for a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// At least that value.
    Least(f64),
    /// At least that many times the peer's value, where more is better.
    Multiple(f64),
    /// At most that many times the peer's value.
    Ratio(f64),
    /// At least that many times faster than the peer.
    Speedup(f64),
    /// At most that value.
    Value(f64),
}

/// One result.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Under which circumstances, such as the address family.
    pub(super) case: String,
    /// The subject that was measured.
    pub(super) subject: String,
    /// The peer that it is compared with.
    pub(super) peer: Option<Peer>,
    /// The median of what was measured.
    pub(super) value: f64,
    /// The unit of the values.
    pub(super) unit: String,
    /// The goal for the value or the ratio.
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
    /// True if the goal is met; `None` without one.
    pub(super) fn met(&self) -> Option<bool> {
        match self.goal? {
            Goal::Least(least) => Some(self.value >= least),
            Goal::Multiple(least) => Some(self.peer.as_ref()?.ratio.median >= least),
            Goal::Ratio(most) => Some(self.peer.as_ref()?.ratio.median <= most),
            Goal::Speedup(least) => Some(self.peer.as_ref()?.ratio.median <= 1.0 / least),
            Goal::Value(most) => Some(self.value <= most),
        }
    }

    /// The row, of the benchmark `bench`, as one line of JSON.
    pub(super) fn to_json(&self, bench: &str) -> String {
        let peer = self.peer.as_ref();
        json!({
            "bench": bench,
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

    /// The goal, for a person.
    pub(super) fn goal_in_words(&self) -> Option<String> {
        Some(match self.goal? {
            Goal::Least(least) => format!("value >= {least}"),
            Goal::Multiple(least) => format!("ratio >= {least}"),
            Goal::Ratio(most) => format!("ratio <= {most}"),
            Goal::Speedup(least) => format!("ratio <= 1/{least}"),
            Goal::Value(most) => format!("value <= {most}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(goal: Option<Goal>, ratio: f64) -> Row {
        let ratio = Spread { low: ratio, median: ratio, high: ratio };
        Row {
            case: "ipv4".to_owned(),
            subject: "sk_lookup".to_owned(),
            peer: Some(Peer { name: "bind".to_owned(), value: 20.0, ratio }),
            value: 21.0,
            unit: "us".to_owned(),
            goal,
        }
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        assert_eq!(row(Some(Goal::Ratio(1.03)), 1.03).met(), Some(true));
        assert_eq!(row(Some(Goal::Ratio(1.03)), 1.04).met(), Some(false));
        assert_eq!(row(Some(Goal::Multiple(1.2)), 1.2).met(), Some(true));
        assert_eq!(row(Some(Goal::Multiple(1.2)), 1.1).met(), Some(false));
        assert_eq!(row(Some(Goal::Speedup(4.0)), 0.25).met(), Some(true));
        assert_eq!(row(Some(Goal::Speedup(4.0)), 0.26).met(), Some(false));
        assert_eq!(row(Some(Goal::Value(20.0)), 1.0).met(), Some(false));
        assert_eq!(row(Some(Goal::Least(21.0)), 1.0).met(), Some(true));
        assert_eq!(row(Some(Goal::Least(22.0)), 1.0).met(), Some(false));
        assert_eq!(row(None, 1.0).met(), None);
    }

    #[test]
    fn a_row_is_one_json_object_with_every_field() {
        let json = row(Some(Goal::Ratio(1.03)), 1.02).to_json("connect");
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        for field in
            ["bench", "case", "subject", "peer", "value", "peer_value", "unit", "ratio", "goal", "met"]
        {
            assert!(object.get(field).is_some_and(|value| !value.is_null()), "{field} in {json}");
        }
        assert!(!json.contains('\n'));
    }
}
