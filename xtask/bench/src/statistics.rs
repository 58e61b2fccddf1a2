//! Medians and quartiles. Means are left out on purpose: on a shared machine they say most about its other users.

/// The middle and the middle half of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// A quarter of the numbers is below.
    pub(super) low: f64,
    /// Half of the numbers is below.
    pub(super) median: f64,
    /// Three quarters of the numbers are below.
    pub(super) high: f64,
}

impl Spread {
    /// Of `numbers`; all are NaN if there are none.
    pub(super) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { low: quantile(&sorted, 1), median: quantile(&sorted, 2), high: quantile(&sorted, 3) }
    }
}

/// The `quarter`th quarter of sorted numbers, between two of them where it falls there.
fn quantile(sorted: &[f64], quarter: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let (whole, part) = (last * quarter / 4, last * quarter % 4);
    let (below, above) = (sorted[whole], sorted[(whole + 1).min(last)]);
    let fraction = [0.0, 0.25, 0.5, 0.75][part];
    below + (above - below) * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Spread { low: 1.75, median: 2.5, high: 3.25 });
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        let Spread { median, .. } = Spread::of([1.0, 1.0, 1.0, 1.0, 1000.0]);
        assert!((median - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_median_of_nothing_is_no_number() {
        assert!(Spread::of([]).median.is_nan());
    }
}
