//! How often sources may come: `50/s burst 100 per /32 /64`. Counts nobody.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use spectrum_common::{Address, Pace};

use super::Family;

/// A tick of [`Pace`] has as many nanoseconds.
const TICK: u64 = 1 << 10;

/// New connections, or datagrams, that may come from one source prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceRate {
    count: NonZeroU32,
    period: RatePeriod,
    burst: NonZeroU32,
    ipv4: u8,
    ipv6: u8,
}

/// The time in which so many may come.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum RatePeriod {
    Second,
    Minute,
    Hour,
}

impl RatePeriod {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    const fn letter(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
        }
    }

    const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }
}

impl SourceRate {
    /// The most of a second that is told apart.
    const MOST_A_SECOND: u32 = 100_000;

    /// As it is charged.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let cost = self.cost();
        let window = cost * u64::from(self.burst.get() - 1);
        Pace {
            cost: u32::try_from(cost).unwrap_or(u32::MAX),
            window: u32::try_from(window).unwrap_or(u32::MAX),
        }
    }

    fn cost(&self) -> u64 {
        let period = self.period.seconds() * 1_000_000_000 / TICK;
        (period / u64::from(self.count.get())).max(1)
    }

    /// The length of the prefixes of a family that are counted.
    #[must_use]
    pub const fn length(&self, family: Family) -> u8 {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// The bits of an address of a family that are counted.
    #[must_use]
    pub const fn mask(&self, family: Family) -> Address {
        Address::mask(self.length(family))
    }

    /// The rate as nftables has it: `50/second`.
    pub(crate) fn in_nftables(&self) -> String {
        let period = match self.period {
            RatePeriod::Second => "second",
            RatePeriod::Minute => "minute",
            RatePeriod::Hour => "hour",
        };
        format!("{}/{period} burst {} packets", self.count, self.burst)
    }

    /// The time after which a source that is silent may come as if it had never been there.
    #[must_use]
    pub fn memory(&self) -> Duration {
        Duration::from_nanos(self.cost() * TICK * u64::from(self.burst.get()))
    }
}

impl fmt::Display for SourceRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, period, burst, ipv4, ipv6 } = self;
        write!(f, "{count}/{} burst {burst} per /{ipv4} /{ipv6}", period.letter())
    }
}

impl FromStr for SourceRate {
    type Err = ParseSourceRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_whitespace();
        let rate = words.next().ok_or(ParseSourceRateError::Syntax)?;
        let (count, period) = rate.split_once('/').ok_or(ParseSourceRateError::Syntax)?;
        let period = RatePeriod::ALL.into_iter().find(|one| one.letter() == period);
        let period = period.ok_or(ParseSourceRateError::Syntax)?;
        let number = |text: &str| text.parse::<NonZeroU32>().map_err(|_error| ParseSourceRateError::Syntax);
        let count = number(count)?;
        let mut parsed = Self { count, period, burst: count, ipv4: 32, ipv6: 64 };
        let mut word = words.next();
        if word == Some("burst") {
            parsed.burst = number(words.next().ok_or(ParseSourceRateError::Syntax)?)?;
            word = words.next();
        }
        if word == Some("per") {
            let mut length = |longest: u8| {
                let digits = words.next().and_then(|word| word.strip_prefix('/'));
                let length = digits.and_then(|digits| digits.parse::<u8>().ok());
                length.filter(|length| (1..=longest).contains(length)).ok_or(ParseSourceRateError::Lengths)
            };
            parsed.ipv4 = length(32)?;
            parsed.ipv6 = length(128)?;
            word = words.next();
        }
        if word.is_some() {
            return Err(ParseSourceRateError::Syntax);
        }
        if u64::from(count.get()) > u64::from(Self::MOST_A_SECOND) * period.seconds() {
            return Err(ParseSourceRateError::TooFast);
        }
        if parsed.memory() > Duration::from_nanos(u64::from(u32::MAX) * TICK) {
            return Err(ParseSourceRateError::TooSlow);
        }
        Ok(parsed)
    }
}

/// The reason for which a text is no rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseSourceRateError {
    /// The words are others.
    #[error("expected a number for each s, m or h, as in 50/s, 50/s burst 100 or 50/s burst 100 per /32 /64")]
    Syntax,
    /// The prefixes are too long, or one is missing.
    #[error(
        "expected two lengths of prefixes behind per, /1 to /32 for IPv4 and /1 to /128 for IPv6, as in per /32 /64"
    )]
    Lengths,
    /// Faster than can be told apart.
    #[error("more than 100000 a second are not counted; write fewer, or leave rate out")]
    TooFast,
    /// A source would have to be remembered for too long.
    #[error(
        "the burst takes more than 73 minutes to come at this rate, longer than sources are remembered; write a smaller burst"
    )]
    TooSlow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_as_they_were_written() {
        for (text, shown) in [
            ("50/s burst 100 per /32 /64", "50/s burst 100 per /32 /64"),
            ("50/s", "50/s burst 50 per /32 /64"),
            ("10/m burst 3", "10/m burst 3 per /32 /64"),
            ("1/h per /24 /48", "1/h burst 1 per /24 /48"),
        ] {
            let rate: SourceRate = text.parse().unwrap();
            assert_eq!(rate.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rate));
        }
    }

    #[test]
    fn what_is_no_rate_is_told_what_one_is() {
        use ParseSourceRateError::{Lengths, Syntax, TooFast, TooSlow};
        for (text, error) in [
            ("", Syntax),
            ("50", Syntax),
            ("50/d", Syntax),
            ("0/s", Syntax),
            ("50/s burst", Syntax),
            ("50/s burst 0", Syntax),
            ("50/s 100", Syntax),
            ("50/s per /33 /64", Lengths),
            ("50/s per /32", Lengths),
            ("50/s per /0 /0", Lengths),
            ("50/s per /32 /64 more", Syntax),
            ("100001/s", TooFast),
            ("1/h burst 2", TooSlow),
        ] {
            assert_eq!(text.parse::<SourceRate>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_pace_of_a_rate_is_its_period_shared_out() {
        let pace = |text: &str| text.parse::<SourceRate>().unwrap().pace();
        assert_eq!(pace("1/s"), Pace { cost: 976_562, window: 0 });
        assert_eq!(pace("50/s burst 100"), Pace { cost: 19_531, window: 99 * 19_531 });
        assert_eq!(pace("100000/s burst 1").cost, 9);
        assert_eq!(pace("1/h").cost, 3_515_625_000);
    }
}
