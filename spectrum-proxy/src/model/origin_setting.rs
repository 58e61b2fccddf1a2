//! What somebody sets of an origin while it runs. Which origin is meant is not said here.

use serde::{Deserialize, Serialize};

use super::Weight;

/// The setting of an origin, or of one of its addresses.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginSetting {
    /// It gets no new connections.
    Drain,
    /// It is again as configured.
    Ready,
    /// It has this share, whatever is configured.
    Weight(Weight),
}

impl OriginSetting {
    /// The share that is set; `None`: the configured one.
    #[must_use]
    pub fn weight(self) -> Option<Weight> {
        match self {
            Self::Drain => Some(Weight::ZERO),
            Self::Ready => None,
            Self::Weight(weight) => Some(weight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_travel_as_words_and_no_weight_is_too_large() {
        let weight = OriginSetting::Weight(Weight::new(3).unwrap());
        for (setting, text) in [
            (OriginSetting::Drain, r#""drain""#),
            (OriginSetting::Ready, r#""ready""#),
            (weight, r#"{"weight":3}"#),
        ] {
            assert_eq!(serde_json::to_string(&setting).unwrap(), text);
            assert_eq!(serde_json::from_str::<OriginSetting>(text).unwrap(), setting);
        }
        let error = serde_json::from_str::<OriginSetting>(r#"{"weight":257}"#).unwrap_err().to_string();
        assert!(error.starts_with("a weight is 0 to 256"), "{error}");
    }
}
