//! The metrics of a driver, recorded from what comes into the protocol and goes out of it.
//!
//! Without the feature `metrics` they are empty functions.

#[cfg(not(feature = "metrics"))]
pub(super) use off::Meters;
#[cfg(feature = "metrics")]
pub(super) use on::Meters;

#[cfg(feature = "metrics")]
mod on {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use metrics::{
        Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    };

    use crate::{
        error::LockError,
        matrix::{ConflictMatrix, Pattern},
        name::LockName,
        protocol::{Completion, Config, Granted, Renewed, Time, WaitPolicy},
        table::{Nonce, SessionId},
    };

    const TIME_TO_GRANT: &str = "locks_time_to_grant_seconds";
    const TIME_HELD: &str = "locks_time_held_seconds";
    const GRANTED: &str = "locks_granted_total";
    const REFUSED: &str = "locks_refused_total";
    const LOST: &str = "locks_lost_total";
    const WAITING: &str = "locks_waiting";
    const HELD: &str = "locks_held";
    const WRITES: &str = "locks_writes_total";
    const WRITE_CONFLICTS: &str = "locks_write_conflicts_total";
    const RENEWALS_LATE: &str = "locks_renewals_late_total";
    const RENEWALS_FAILED: &str = "locks_renewals_failed_total";
    const RECONNECTS: &str = "locks_reconnects_total";

    /// The label of names that no pattern of the matrix fits.
    const OTHER: &str = "other";

    /// The patterns that the names of a request fit, each once.
    type Labels = Vec<&'static str>;

    /// Records what happens to the requests and grants of a driver.
    ///
    /// The guards of a driver and its waiting requests are counted in gauges, which all drivers
    /// of a process share.
    #[derive(Debug)]
    pub(in crate::driver) struct Meters {
        matrix: ConflictMatrix,
        /// Renewals of a session that are further apart are late.
        renewal_limit: Duration,
        requests: BTreeMap<Nonce, PendingRequest>,
        grants: BTreeMap<Nonce, HeldGrant>,
        /// When the leases end, on the boot clock.
        leases: BTreeMap<SessionId, Time>,
    }

    #[derive(Debug)]
    struct PendingRequest {
        labels: Labels,
        since: Instant,
        waits: bool,
    }

    #[derive(Debug)]
    struct HeldGrant {
        labels: Labels,
        since: Instant,
    }

    impl Meters {
        pub(in crate::driver) fn new(config: &Config) -> Self {
            describe();
            Self {
                matrix: config.matrix,
                renewal_limit: config.session_ttl() / 2,
                requests: BTreeMap::new(),
                grants: BTreeMap::new(),
                leases: BTreeMap::new(),
            }
        }

        /// A request has arrived.
        pub(in crate::driver) fn on_request(
            &mut self,
            nonce: Nonce,
            names: &[LockName],
            policy: WaitPolicy,
        ) {
            let labels = labels(&self.matrix, names);
            let waits = matches!(policy, WaitPolicy::Wait { .. });
            if waits {
                add(WAITING, &labels, 1.0);
            }
            let since = Instant::now();
            let request = PendingRequest {
                labels,
                since,
                waits,
            };
            self.requests.insert(nonce, request);
        }

        /// The caller of a request is gone.
        pub(in crate::driver) fn on_cancelled(&mut self, nonce: Nonce) {
            self.refuse(nonce, "cancelled");
        }

        pub(in crate::driver) fn on_failed(&mut self, nonce: Nonce, error: &LockError) {
            self.refuse(nonce, reason(error));
        }

        fn refuse(&mut self, nonce: Nonce, reason: &'static str) {
            if let Some(request) = self.take_request(nonce) {
                for label in request.labels {
                    counter!(REFUSED, "pattern" => label, "reason" => reason).increment(1);
                }
            }
        }

        fn take_request(&mut self, nonce: Nonce) -> Option<PendingRequest> {
            let request = self.requests.remove(&nonce)?;
            if request.waits {
                add(WAITING, &request.labels, -1.0);
            }
            Some(request)
        }

        pub(in crate::driver) fn on_granted(&mut self, granted: &Granted) {
            if let Some(deadline) = granted.deadline {
                self.leases
                    .entry(granted.session.clone())
                    .or_insert(deadline);
            }
            // The caller of any other request is gone, and its guard is never seen.
            let Some(request) = self.take_request(granted.nonce) else {
                return;
            };
            let now = Instant::now();
            let took = now - request.since;
            for label in &request.labels {
                counter!(GRANTED, "pattern" => *label).increment(1);
                histogram!(TIME_TO_GRANT, "pattern" => *label).record(took);
            }
            let labels = request.labels;
            add(HELD, &labels, 1.0);
            self.grants
                .insert(granted.nonce, HeldGrant { labels, since: now });
        }

        /// The guard of a grant is gone: it was released, dropped or detached.
        pub(in crate::driver) fn on_guard_gone(&mut self, nonce: Nonce) {
            drop(self.end_grant(nonce));
        }

        pub(in crate::driver) fn on_lost(&mut self, nonce: Nonce) {
            for label in self.end_grant(nonce) {
                counter!(LOST, "pattern" => label).increment(1);
            }
        }

        fn end_grant(&mut self, nonce: Nonce) -> Labels {
            let Some(HeldGrant { labels, since }) = self.grants.remove(&nonce) else {
                return Labels::new();
            };
            for label in &labels {
                histogram!(TIME_HELD, "pattern" => *label).record(since.elapsed());
            }
            add(HELD, &labels, -1.0);
            labels
        }

        /// A query has ended.
        #[allow(clippy::unused_self, reason = "as the other events")]
        pub(in crate::driver) fn on_completed(&self, completion: &Completion) {
            if let Completion::CompareAndSet(_, Ok(applied)) = completion {
                let name = if *applied { WRITES } else { WRITE_CONFLICTS };
                counter!(name).increment(1);
            }
        }

        #[allow(clippy::unused_self, reason = "as the other events")]
        pub(in crate::driver) fn on_renewed(&self, renewed: &Renewed) {
            let failed = matches!(
                renewed,
                Renewed::Opened(Err(_)) | Renewed::Sessions { result: Err(_), .. }
            );
            if failed {
                counter!(RENEWALS_FAILED).increment(1);
            }
        }

        /// A session was renewed. The deadlines are as far apart as the renewals were sent.
        pub(in crate::driver) fn on_lease_extended(&mut self, session: &SessionId, deadline: Time) {
            if let Some(before) = self.leases.get_mut(session) {
                if deadline - *before > self.renewal_limit {
                    counter!(RENEWALS_LATE).increment(1);
                }
                *before = deadline;
            }
        }

        pub(in crate::driver) fn on_lease_ended(&mut self, session: &SessionId) {
            self.leases.remove(session);
        }

        /// So many connections were opened again after a failure.
        #[allow(clippy::unused_self, reason = "as the other events")]
        pub(in crate::driver) fn on_reconnects(&self, count: u64) {
            if count > 0 {
                counter!(RECONNECTS).increment(count);
            }
        }
    }

    /// What is left does not count any more, however the driver ends.
    impl Drop for Meters {
        fn drop(&mut self) {
            let requests: Vec<_> = self.requests.keys().copied().collect();
            for nonce in requests {
                self.refuse(nonce, "closed");
            }
            let grants: Vec<_> = self.grants.keys().copied().collect();
            for nonce in grants {
                self.on_lost(nonce);
            }
        }
    }

    fn add(name: &'static str, labels: &[&'static str], count: f64) {
        for label in labels {
            gauge!(name, "pattern" => *label).increment(count);
        }
    }

    fn labels(matrix: &ConflictMatrix, names: &[LockName]) -> Labels {
        let labels = names.iter().map(|name| label(matrix, name.as_str()));
        let mut labels: Labels = labels.collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The pattern of the matrix that a name fits: if there are several, the longest.
    fn label(matrix: &ConflictMatrix, name: &str) -> &'static str {
        let rules = matrix.rules().iter();
        let patterns = rules.flat_map(|(asked, held)| held.iter().chain([asked]));
        let patterns = patterns.chain(matrix.limit_rules().iter().map(|(pattern, _)| pattern));
        let fitting = patterns
            .copied()
            .filter(|pattern| Pattern::of(pattern).fits(name));
        fitting.max_by_key(|pattern| pattern.len()).unwrap_or(OTHER)
    }

    fn reason(error: &LockError) -> &'static str {
        match error {
            LockError::Busy { .. } => "busy",
            LockError::Timeout { .. } => "timeout",
            LockError::Deadlock { .. } => "deadlock",
            LockError::QueueFull { .. } => "queue_full",
            LockError::Rejected { .. } => "rejected",
            LockError::Database { .. } | LockError::Schema { .. } => "database",
            LockError::Closed => "closed",
            _ => "other",
        }
    }

    fn describe() {
        let seconds = Unit::Seconds;
        describe_histogram!(
            TIME_TO_GRANT,
            seconds,
            "from a request's arrival to its grant"
        );
        describe_histogram!(TIME_HELD, seconds, "from a grant to the end of its guard");
        describe_counter!(GRANTED, "requests that were granted");
        describe_counter!(REFUSED, "requests that were not granted, by reason");
        describe_counter!(LOST, "guards that lost their locks");
        describe_gauge!(WAITING, "requests of this process that wait");
        describe_gauge!(HELD, "guards of this process that hold locks");
        describe_counter!(WRITES, "writes of a locks row by this process");
        describe_counter!(
            WRITE_CONFLICTS,
            "writes that another process's write refused"
        );
        describe_counter!(
            RENEWALS_LATE,
            "renewals more than half a ttl after the last"
        );
        describe_counter!(RENEWALS_FAILED, "renewals that failed and were run again");
        describe_counter!(RECONNECTS, "connections opened again after a failure");
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_is_labelled_by_the_longest_pattern_that_it_fits() {
            const MATRIX: ConflictMatrix =
                ConflictMatrix::new(&[("backup", &["app_*", "app_task_*"]), ("app_task_1", &[])])
                    .limits(&[("upload_*", 3)]);
            for (name, expected) in [
                ("backup", "backup"),
                ("app_wiki", "app_*"),
                ("app_task_2", "app_task_*"),
                ("app_task_1", "app_task_1"),
                ("upload_1", "upload_*"),
                ("mail", OTHER),
            ] {
                assert_eq!(label(&MATRIX, name), expected, "{name}");
            }
            let names = ["app_b", "app_a", "x", "y"].map(|name| LockName::new(name).unwrap());
            assert_eq!(labels(&MATRIX, &names), ["app_*", OTHER]);
            assert_eq!(label(&ConflictMatrix::exclusive(), "x"), OTHER);
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use crate::{
        error::LockError,
        name::LockName,
        protocol::{Completion, Config, Granted, Renewed, Time, WaitPolicy},
        table::{Nonce, SessionId},
    };

    #[derive(Debug)]
    pub(in crate::driver) struct Meters;

    #[allow(clippy::unused_self, reason = "the functions of the feature `metrics`")]
    impl Meters {
        pub(in crate::driver) fn new(_: &Config) -> Self {
            Self
        }

        pub(in crate::driver) fn on_request(&mut self, _: Nonce, _: &[LockName], _: WaitPolicy) {}
        pub(in crate::driver) fn on_cancelled(&mut self, _: Nonce) {}
        pub(in crate::driver) fn on_failed(&mut self, _: Nonce, _: &LockError) {}
        pub(in crate::driver) fn on_granted(&mut self, _: &Granted) {}
        pub(in crate::driver) fn on_guard_gone(&mut self, _: Nonce) {}
        pub(in crate::driver) fn on_lost(&mut self, _: Nonce) {}
        pub(in crate::driver) fn on_completed(&self, _: &Completion) {}
        pub(in crate::driver) fn on_renewed(&self, _: &Renewed) {}
        pub(in crate::driver) fn on_lease_extended(&mut self, _: &SessionId, _: Time) {}
        pub(in crate::driver) fn on_lease_ended(&mut self, _: &SessionId) {}
        pub(in crate::driver) fn on_reconnects(&self, _: u64) {}
    }
}
