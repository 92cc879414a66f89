//! What happened when, as rows while it happens, and as a chart and a summary at the end.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use locks_examples::{Result, Said};

use crate::worker::Step;

/// How wide the bars of the chart may be.
const CHART: usize = 56;
/// How wide the lines of the summary may be.
const PARAGRAPH: usize = 88;

/// All workers' stays, and when they began.
#[derive(Debug)]
pub(crate) struct Timeline {
    begin: Instant,
    stays: Vec<Stay>,
    /// The longest lock name.
    width: usize,
}

/// What became of one worker. Times count from the beginning.
#[derive(Debug, Default)]
struct Stay {
    lock: &'static str,
    process: u32,
    asked: Duration,
    started: Duration,
    ended: Duration,
    /// The locks that stood in its way when it asked.
    waited_for: Vec<String>,
}

impl Timeline {
    /// Begins, with all workers ready.
    pub(crate) fn begin(roll: impl Iterator<Item = (&'static str, u32)>) -> io::Result<Self> {
        let stay = |(lock, process)| Stay {
            lock,
            process,
            ..Stay::default()
        };
        let stays: Vec<_> = roll.map(stay).collect();
        let width = stays.iter().map(|stay| stay.lock.len()).max().unwrap_or(0);
        let timeline = Self {
            begin: Instant::now(),
            stays,
            width,
        };
        writeln!(io::stdout(), "    ms  process  lock")?;
        Ok(timeline)
    }

    /// Adds what a worker said, and returns what that was.
    pub(crate) fn add(&mut self, said: &Said) -> Result<Step> {
        let at = said.at.duration_since(self.begin);
        let stay = self.stay(said.who)?;
        let step = said.what.parse()?;
        let text = match step {
            Step::Ready => return Err(format!("{} is ready twice", said.who).into()),
            Step::Asks => {
                stay.asked = at;
                return Ok(step);
            }
            Step::Starts => {
                stay.started = at;
                match stay.waited_for.len() {
                    0 => "starts".to_owned(),
                    _ => format!("starts, having waited {} ms", stay.wait().as_millis()),
                }
            }
            Step::Ends => {
                stay.ended = at;
                format!(
                    "ends after {} ms",
                    at.saturating_sub(stay.started).as_millis()
                )
            }
        };
        self.print(at, said.who, &text)?;
        Ok(step)
    }

    /// Adds that a worker waits, and for which locks.
    pub(crate) fn add_wait(&mut self, at: Instant, lock: &str, blockers: &[String]) -> Result<()> {
        let at = at.duration_since(self.begin);
        self.stay(lock)?.waited_for = blockers.to_vec();
        self.print(at, lock, &format!("waits for {}", blockers.join(", ")))
    }

    /// Prints the chart and the summary, and fails if something ran beside what it conflicts
    /// with. `held` is how many locks are held now.
    pub(crate) fn end(&self, held: usize) -> Result<()> {
        writeln!(io::stdout(), "\n{}\n{}", self.chart(), self.summary(held)?)?;
        Ok(())
    }

    fn stay(&mut self, lock: &str) -> Result<&mut Stay> {
        let known = self.stays.iter_mut().find(|stay| stay.lock == lock);
        Ok(known.ok_or_else(|| format!("nobody needs {lock}"))?)
    }

    fn print(&mut self, at: Duration, lock: &str, text: &str) -> Result<()> {
        let (width, process) = (self.width, self.stay(lock)?.process);
        let ms = at.as_millis();
        writeln!(
            io::stdout(),
            "{ms:>6}  {process:>7}  {lock:<width$}  {text}"
        )?;
        Ok(())
    }

    /// One bar for each worker.
    fn chart(&self) -> String {
        let end = self.stays.iter().map(|stay| stay.ended).max();
        let end = end.unwrap_or_default().max(Duration::from_millis(1));
        let column = |at: Duration| {
            let share = at.as_secs_f64() / end.as_secs_f64();
            // Between 0 and the width, which is small.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            #[expect(clippy::cast_precision_loss)]
            let column = (share * CHART as f64).round() as usize;
            column
        };
        let width = self.width;
        let mut chart = format!(
            "process  {:<width$}  0 ms{:>rest$} ms\n",
            "lock",
            end.as_millis(),
            rest = CHART - 7
        );
        for stay in &self.stays {
            let started = column(stay.started);
            let waits = match stay.waited_for.len() {
                0 => 0,
                _ => started.saturating_sub(column(stay.asked)),
            };
            let works = column(stay.ended).saturating_sub(started).max(1);
            let bar = " ".repeat(started - waits) + &".".repeat(waits) + &"#".repeat(works);
            let _ = writeln!(chart, "{:>7}  {:<width$}  {bar}", stay.process, stay.lock);
        }
        let _ = writeln!(chart, "         {:<width$}  . waits   # holds its lock", "");
        chart
    }

    /// What was seen, in sentences.
    fn summary(&self, held: usize) -> Result<String> {
        let (free, blocked): (Vec<_>, Vec<_>) = self
            .stays
            .iter()
            .partition(|stay| stay.waited_for.is_empty());
        let from = free.iter().map(|stay| stay.started).max();
        let to = free.iter().map(|stay| stay.ended).min();
        let overlap = match (from, to) {
            (Some(from), Some(to)) if from < to => to.saturating_sub(from),
            _ => return Err("nothing ran side by side".into()),
        };
        let mut text = format!(
            "{} ran side by side: for {} ms all of them held their locks.",
            list(&free.iter().map(|stay| stay.lock).collect::<Vec<_>>()),
            overlap.as_millis()
        );
        for stay in blocked {
            text.push(' ');
            text.push_str(&self.told(stay)?);
        }
        text.push_str(match held {
            0 => " Nothing is held any more.",
            _ => return Err(format!("{held} locks are held after the end").into()),
        });
        Ok(wrapped(&text))
    }

    /// The sentence about one that waited.
    fn told(&self, stay: &Stay) -> Result<String> {
        let lock = stay.lock;
        let waited_for = |other: &&Stay| stay.waited_for.iter().any(|name| name == other.lock);
        let blockers: Vec<_> = self.stays.iter().filter(waited_for).collect();
        let free = blockers.iter().map(|blocker| blocker.ended).max();
        let free = free.ok_or_else(|| format!("{lock} waited for nobody here"))?;
        let names = list(
            &blockers
                .iter()
                .map(|blocker| blocker.lock)
                .collect::<Vec<_>>(),
        );
        let Some(gap) = stay.started.checked_sub(free) else {
            return Err(format!("{lock} started although {names} had not ended").into());
        };
        let (wait, gap) = (stay.wait().as_millis(), gap.as_millis());
        Ok(
            if blockers.iter().all(|blocker| blocker.started > stay.asked) {
                format!(
                    "{lock} came while {names} was waiting, and was not let past: it waited {wait} ms \
                 and started {gap} ms after {names} had ended."
                )
            } else {
                format!(
                    "{lock} waited {wait} ms for {names}, and started {gap} ms after the last of them \
                 had ended."
                )
            },
        )
    }
}

impl Stay {
    fn wait(&self) -> Duration {
        self.started.saturating_sub(self.asked)
    }
}

/// `a, b and c`.
fn list(items: &[&str]) -> String {
    match items {
        [some @ .., one_more, last] => {
            let some: String = some.iter().flat_map(|item| [*item, ", "]).collect();
            format!("{some}{one_more} and {last}")
        }
        few => few.concat(),
    }
}

/// The text in lines.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let separator = match column {
            0 => "",
            _ if column + 1 + word.len() > PARAGRAPH => "\n",
            _ => " ",
        };
        column = if separator == " " { column + 1 } else { 0 } + word.len();
        lines.push_str(separator);
        lines.push_str(word);
    }
    lines
}
