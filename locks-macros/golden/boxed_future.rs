#[with_lock("app_task_<id>", acquire)]
fn remove(id: u32) -> Pin<Box<dyn Future<Output = Result<(), TaskError>> + Send>> {
    Box::pin(async move {
        files::remove(id).await?;
        Ok(())
    })
}
