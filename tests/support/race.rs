//! Two operations that race, over and over.

use std::time::Duration;

/// Starts two operations at about one time.
#[derive(Debug, Default)]
pub struct Race {
    /// How much later than the first operation the second one starts, in microseconds. It adapts
    /// to the results, because otherwise one side would always win.
    lead: i64,
}

impl Race {
    /// Runs both operations to their ends.
    pub async fn run<A, B>(
        &mut self,
        first: impl Future<Output = A>,
        second: impl Future<Output = B>,
    ) -> (A, B) {
        let lead = self.lead + fastrand::i64(-1_000..1_000);
        let after = async |micros: i64| {
            let micros = u64::try_from(micros).unwrap_or_default();
            tokio::time::sleep(Duration::from_micros(micros)).await;
        };
        let first = async {
            after(-lead).await;
            first.await
        };
        let second = async {
            after(lead).await;
            second.await
        };
        tokio::join!(first, second)
    }

    /// Notes the result of a run, so that the next one is closer.
    pub fn note(&mut self, first_won: bool) {
        self.lead += if first_won { -500 } else { 500 };
    }
}
