#[with_lock("app_task_<app>", acquire, wait)]
async fn install(app_id: &str) -> Result<(), TaskError> {
    Ok(())
}
