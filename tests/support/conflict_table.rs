//! The original's conflict table, written a second time.
//!
//! It deliberately does not use the library's: the oracle and the foreign client judge by it.

/// The names of which every ordered pair is tested.
pub const NAMES: [&str; 10] = [
    "box_update",
    "box_update_task",
    "app_task_1",
    "app_task_2",
    "app_backup_1",
    "app_backup_2",
    "full_backup_task_1",
    "full_backup_task_2",
    "mail_restart",
    "other",
];

/// Whether `asked` is refused while `held` is held. The relation is not symmetric.
pub fn refused_while(asked: &str, held: &str) -> bool {
    if asked == held {
        return true;
    }
    match asked {
        "box_update" => held.starts_with("app_task_") || held.starts_with("app_backup_"),
        "box_update_task" => held.starts_with("full_backup_task_"),
        _ if asked.starts_with("app_task_") => held == "box_update",
        _ if asked.starts_with("full_backup_task_") => held == "box_update_task",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row: requested; column: held; `x`: refused. In the order of `NAMES`.
    const DRAWN: [&str; 10] = [
        "x.xxxx....", // box_update
        ".x....xx..", // box_update_task
        "x.x.......", // app_task_1
        "x..x......", // app_task_2
        "....x.....", // app_backup_1
        ".....x....", // app_backup_2
        ".x....x...", // full_backup_task_1
        ".x.....x..", // full_backup_task_2
        "........x.", // mail_restart
        ".........x", // other
    ];

    #[test]
    fn agrees_with_its_drawing() {
        for (asked, row) in NAMES.iter().zip(DRAWN) {
            for (held, cell) in NAMES.iter().zip(row.chars()) {
                assert_eq!(
                    refused_while(asked, held),
                    cell == 'x',
                    "{asked} while {held}"
                );
            }
        }
    }
}
