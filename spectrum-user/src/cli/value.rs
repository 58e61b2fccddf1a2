//! Values of flags that are no nouns of their own: what may be typed, and the cure where it may not. Which flag it was, clap
//! says.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::InstanceKeys;

const LONGEST_DRAIN: Duration = InstanceKeys::LONGEST_DRAIN;

const MOST_WORKERS: usize = InstanceKeys::MOST_WORKERS;

/// The time to drain.
pub(super) fn drain(typed: &str) -> Result<Duration, String> {
    let Ok(time) = humantime::parse_duration(typed) else {
        return Err("not a time; write it as in 10s, \"1m 30s\" or 500ms, and 0s for none".to_owned());
    };
    if time > LONGEST_DRAIN {
        let longest = humantime::format_duration(LONGEST_DRAIN);
        return Err(format!("not a time up to {longest}; give one that somebody would wait for"));
    }
    Ok(time)
}

/// The time for which something holds.
pub(super) fn holding(typed: &str) -> Result<Duration, String> {
    match humantime::parse_duration(typed) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err("not a time; leave it out for one without an end".to_owned()),
        // What programs hand over that count in seconds.
        Err(_) => match typed.parse::<u64>() {
            Ok(0) | Err(_) => Err("not a time; write it as in 10m, 1h or 600s".to_owned()),
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
        },
    }
}

/// The number of workers.
pub(super) fn workers(typed: &str) -> Result<NonZeroUsize, String> {
    typed.parse().ok().filter(|count: &NonZeroUsize| count.get() <= MOST_WORKERS).ok_or_else(|| {
        format!("not a number from 1 to {MOST_WORKERS}; leave --workers out for one worker for each core")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_does_so_for_some_time() {
        assert_eq!(holding("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(holding("600"), Ok(Duration::from_mins(10)));
        for typed in ["0s", "0", "-1", "soon", ""] {
            assert!(holding(typed).unwrap_err().starts_with("not a time"), "{typed}");
        }
    }

    #[test]
    fn times_and_numbers_have_ends() {
        assert_eq!(drain("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(drain("0s"), Ok(Duration::ZERO));
        for typed in ["soon", "10", "-1s", "", "99999999999999999999s"] {
            assert!(drain(typed).unwrap_err().contains("10s"), "{typed}");
        }
        assert!(drain("500000000y").unwrap_err().contains("up to 1year"));
        assert_eq!(workers("8").unwrap().get(), 8);
        for typed in ["0", "-1", "many", "", "1.5", "5000", "99999999999999999999999"] {
            assert!(workers(typed).unwrap_err().contains("from 1 to 4096"), "{typed}");
        }
    }
}
