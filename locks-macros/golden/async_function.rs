#[with_lock("app_task_<app.id>", "app_backup_<app.id>")]
/// Installs it.
pub async fn install<T: Source>(app: &App, mut source: T, _: u8) -> Result<impl Iterator<Item = u8>, TaskError> {
    let bytes = source.fetch().await?;
    Ok(bytes.into_iter())
}
