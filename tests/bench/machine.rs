//! The machine and the date of a measurement.

use std::{
    fmt, fs, thread,
    time::{Duration, SystemTime},
};

use serde::Serialize;

/// What the results depend on in addition to the code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) day: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
}

impl Machine {
    /// The machine that this program runs on, today.
    pub(crate) fn this() -> Self {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let memory = rustix::system::sysinfo();
        let bytes = u64::from(memory.mem_unit) * memory.totalram;
        Self {
            day: now.chars().take_while(|c| *c != 'T').collect(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gib: bytes >> 30,
        }
    }
}

/// How long the processors of the machine were busy since its start; `None` where the system does
/// not report it. It contains what the servers use.
pub(crate) fn busy() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_ascii_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
    let ticks = fields.take(7).enumerate();
    let busy = ticks.filter(|(field, _)| !matches!(field, 3 | 4));
    let ticks: Option<u64> = busy.map(|(_, ticks)| ticks.parse::<u64>().ok()).sum();
    // A tick is 10 ms on every platform of Linux.
    Some(Duration::from_millis(10 * ticks?))
}

/// The resident memory of this process in bytes; `None` where the system does not report it.
pub(crate) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            day,
            cores,
            memory_gib,
        } = self;
        write!(f, "{day}, {cores} cores, {memory_gib} GiB")
    }
}
