//! Medians, percentiles and stopwatches.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use statrs::statistics::{Data, OrderStatistics as _};

/// The median; `NaN` without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    Data::new(values.to_vec()).median()
}

/// The value below which `percent` of a hundred values are.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    Data::new(values.to_vec()).percentile(percent)
}

/// The median of the ratios of each round. Noise of the machine affects both values of a round.
pub(crate) fn ratio(ours: &[f64], reference: &[f64]) -> f64 {
    let ratios: Vec<_> = ours.iter().zip(reference).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// Microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn number(count: usize) -> f64 {
    count as f64
}

/// Measures the time and the CPU time of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    start: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            cpu: cpu_time(),
        }
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Operations per second since the start.
    pub(crate) fn rate(&self, operations: usize) -> f64 {
        number(operations) / self.elapsed().as_secs_f64()
    }

    /// CPU time since the start, per operation, in microseconds.
    pub(crate) fn cpu_per(&self, operations: usize) -> f64 {
        micros(self.cpu_elapsed()) / number(operations)
    }

    /// CPU time since the start: that of all threads, in user and in kernel mode.
    pub(crate) fn cpu_elapsed(&self) -> Duration {
        cpu_time().saturating_sub(self.cpu)
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// One value for each round: the result, and the CPU time per operation in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    pub(crate) values: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
}

impl Rounds {
    pub(crate) fn push(&mut self, value: f64, cpu: f64) {
        self.values.push(value);
        self.cpu.push(cpu);
    }

    /// The median of the results.
    pub(crate) fn median(&self) -> f64 {
        median(&self.values)
    }

    /// The median ratio of the results to those of a reference.
    pub(crate) fn ratio(&self, reference: &Self) -> f64 {
        ratio(&self.values, &reference.values)
    }
}
