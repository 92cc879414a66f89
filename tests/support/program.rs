//! The requests of a process, one after the other; it releases everything at the end.

use std::{collections::BTreeSet, convert::Infallible, fmt, str::FromStr};

use crate::conflict_table::refused_while;

/// In the order in which programs acquire them. A name that conflicts with a whole kind comes right
/// before that kind: it is a lock on all of its members.
pub const SORTED: [&str; 14] = [
    "box_update",
    "app_task_1",
    "app_task_2",
    "app_task_3",
    "box_update_task",
    "full_backup_task_1",
    "full_backup_task_2",
    "app_backup_1",
    "app_backup_2",
    "mail_restart",
    "other",
    "x",
    "y",
    "z",
];

/// Requests, each for names that are granted together. Written `a b/c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// In order.
    pub requests: Vec<Vec<String>>,
}

impl Program {
    /// A random program of requests for one to three names each, in sorted order. Such programs
    /// never deadlock, in any combination: a process that holds a lock never requests an earlier
    /// name, or one that its own locks forbid.
    pub fn random() -> Self {
        let wanted = fastrand::usize(1..=5);
        let mut picks = BTreeSet::new();
        while picks.len() < wanted {
            picks.insert(fastrand::usize(..SORTED.len()));
        }
        let mut requests = vec![Vec::new()];
        for name in picks.into_iter().map(|pick| SORTED[pick]) {
            let refused = |held: &[Vec<String>]| {
                let mut held = held.iter().flatten();
                held.any(|held| refused_while(name, held))
            };
            let last = requests.len() - 1;
            if refused(&requests[..last]) {
                continue;
            }
            let full = requests[last].len() == 3;
            if full || (!requests[last].is_empty() && fastrand::bool()) {
                if refused(&requests) {
                    continue;
                }
                requests.push(Vec::new());
            }
            requests.last_mut().expect("one").push(name.to_owned());
        }
        Self { requests }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests: Vec<_> = self.requests.iter().map(|names| names.join(" ")).collect();
        f.write_str(&requests.join("/"))
    }
}

impl FromStr for Program {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let names = |request: &str| request.split(' ').map(str::to_owned).collect();
        let requests = text.split('/').map(names).collect();
        Ok(Self { requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_programs_are_sorted_and_free_of_own_conflicts() {
        let place = |name: &String| SORTED.iter().position(|sorted| sorted == name);
        let mut longest = 0;
        for _ in 0..2_000 {
            let program = Program::random();
            assert!(program.requests.iter().flatten().is_sorted_by_key(place));
            for (index, names) in program.requests.iter().enumerate() {
                assert!((1..=3).contains(&names.len()), "{program}");
                for held in program.requests[..index].iter().flatten() {
                    assert!(
                        !names.iter().any(|name| refused_while(name, held)),
                        "{program}"
                    );
                }
            }
            longest = longest.max(program.requests.len());
            assert_eq!(program.to_string().parse(), Ok(program));
        }
        assert!(longest >= 4, "{longest}");
    }
}
