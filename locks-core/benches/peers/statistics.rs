//! Medians and percentiles.

use std::time::Duration;

use statrs::statistics::{Data, OrderStatistics as _};

/// The value in the middle; not a number if there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    Data::new(values.to_vec()).median()
}

/// The value below which so many of a hundred are.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    Data::new(values.to_vec()).percentile(percent)
}

/// The median of the ratios of each round, which machine noise hits on both sides.
pub(crate) fn ratio(ours: &[f64], reference: &[f64]) -> f64 {
    let ratios: Vec<_> = ours.iter().zip(reference).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// Microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
