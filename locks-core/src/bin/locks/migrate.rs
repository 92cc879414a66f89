//! `locks migrate`.

use crate::{arguments::Database, exit::Outcome, report};

pub(crate) async fn migrate(database: &Database, print: bool) -> Outcome {
    if print {
        let sql = database.builder().migration_sql(database.url()?)?;
        report::print(sql.trim_end())?;
    } else {
        let locks = database.builder().connect(database.url()?).await?;
        locks.close().await?;
        report::print("the tables are ready")?;
    }
    Ok(0)
}
