fn remove(id: u32) -> Pin<Box<dyn Future<Output = Result<(), TaskError>> + Send>> {
    Box::pin(async move {
        use ::locks_core::__private as __locks_private;
        #[allow(clippy::needless_return)]
        if false {
            return __locks_private::declare_return_type::<Result<(), TaskError>>();
        }
        let __locks_errors = __locks_private::from_lock_error::<
            Result<(), TaskError>,
            _,
        >();
        let __locks_call = __locks_private::Call::new([
            __locks_private::name(
                &[
                    __locks_private::text("app_task_"),
                    __locks_private::value("<id>", &id),
                ],
            ),
        ]);
        let __locks_call = __locks_call.no_wait();
        let __locks_locked_call = match __locks_private::lock(__locks_call).await {
            ::core::result::Result::Ok(__locks_locked_call) => __locks_locked_call,
            ::core::result::Result::Err(__locks_error) => {
                return __locks_errors.convert(__locks_error);
            }
        };
        let __locks_value = {
            let __locks_body = ::core::pin::pin!(
                async move { #[allow(clippy::needless_return)] if false { return
                __locks_private::declare_return_type:: < Result < (), TaskError > > (); }
                #[allow(unused_braces, clippy::diverging_sub_expression)] let
                __locks_value : Result < (), TaskError > = { files::remove(id). await ?;
                Ok(()) }; #[allow(unreachable_code)] __locks_value }
            );
            let __locks_value = __locks_private::run(
                    &__locks_locked_call,
                    __locks_errors,
                    __locks_body,
                )
                .await;
            __locks_value
        };
        __locks_private::unlock(__locks_locked_call, __locks_errors, __locks_value).await
    })
}
