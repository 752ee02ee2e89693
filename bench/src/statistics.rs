//! Medians, and ratios of what alternated.
//!
//! A machine's speed drifts, so figures of different times cannot be compared. A ratio here is
//! taken within one round, where both ran within seconds, and the median is of these ratios. Other
//! work disturbs a round, not the result.

use serde::{Deserialize, Serialize};

/// The median of some figures, and how far they lay apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of `figures`; `None` when there are none. Of an even number it is the mean of the two in the
    /// middle.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let (lower, upper) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { low, median: f64::midpoint(lower, upper), high })
    }

    /// Of the ratios of `figures` to `base` in the rounds that both have.
    pub(crate) fn of_ratios(figures: &[(u32, f64)], base: &[(u32, f64)]) -> Option<Self> {
        Self::of(figures.iter().filter_map(|(round, figure)| {
            let (_, base) = base.iter().find(|(of_base, _)| of_base == round)?;
            Some(figure / base)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn median(figures: &[f64]) -> Option<f64> {
        Spread::of(figures.iter().copied()).map(|spread| spread.median)
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 100.0, 2.0]), Some(3.0));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[f64::NAN]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // the machine was ten times slower in round 2 and b did not run in round 3
        let a = [(1, 20.0), (2, 2.0), (3, 50.0)];
        let b = [(2, 1.0), (1, 10.0)];
        assert_eq!(Spread::of_ratios(&a, &b), Some(Spread { low: 2.0, median: 2.0, high: 2.0 }));
        assert_eq!(Spread::of_ratios(&a, &[]), None);
    }
}
