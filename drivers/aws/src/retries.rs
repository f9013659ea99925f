//! Says that AWS is asked again, while it is asked: the SDK's retries happen inside its calls, where no progress is.

use std::{cell::Cell, future::Future, pin::Pin};

use aws_sdk_ec2::config::{
    ConfigBag, Intercept, RuntimeComponents,
    interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
};
use aws_sdk_ec2::error::BoxError;
use aws_smithy_runtime_api::client::{orchestrator::Metadata, retries::RequestAttempts};
use machine_driver::Progress;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What EC2 and SSM call being asked too often.
const THROTTLED: [&str; 4] =
    ["RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"];

tokio::task_local! {
    static LISTENER: UnboundedSender<String>;
    static ATTEMPTS: Cell<u32>;
}

/// Runs one call, and tells how often it was sent: after a second time, the answer is about that one only.
pub(crate) async fn counted<T>(call: impl Future<Output = T>) -> (T, u32) {
    ATTEMPTS
        .scope(Cell::new(0), async {
            let answer = call.await;
            (answer, ATTEMPTS.with(Cell::get))
        })
        .await
}

/// Watches the attempts of every call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries;

impl Intercept for Retries {
    fn name(&self) -> &'static str {
        "machine-retries"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let attempt = bag.load::<RequestAttempts>().map_or(1, RequestAttempts::attempts);
        let _ = ATTEMPTS.try_with(|attempts| attempts.set(attempt));
        // One lost reply is nobody's concern; waiting is.
        if attempt > 2 {
            say(bag, &format!("attempt {attempt}"));
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let throttled = context
            .response()
            .and_then(|response| response.body().bytes())
            .map(String::from_utf8_lossy)
            .is_some_and(|body| THROTTLED.iter().any(|code| body.contains(code)));
        if throttled && context.response().is_some_and(|response| response.status().as_u16() >= 400) {
            say(bag, "AWS asks for a slower pace");
        }
        Ok(())
    }
}

fn say(bag: &ConfigBag, what: &str) {
    let call = bag.load::<Metadata>().map_or("a call", Metadata::name).to_owned();
    tracing::debug!(call, what, "asking AWS again");
    let _ = LISTENER.try_with(|listener| listener.send(format!("{call}: {what}; trying again")));
}

/// Runs `work`, passing on to `progress` what its calls have to say, each thing once.
/// The work is boxed, because futures of the SDK's calls are large.
pub(crate) async fn noting_retries<T>(progress: &dyn Progress, work: Pin<Box<impl Future<Output = T>>>) -> T {
    let (sender, mut receiver) = unbounded_channel();
    let mut said: Vec<String> = Vec::new();
    let mut pass_on = |text: String| {
        if !said.contains(&text) {
            progress.note(&text);
            said.push(text);
        }
    };
    let work = LISTENER.scope(sender, work);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            Some(text) = receiver.recv() => pass_on(text),
            done = &mut work => {
                while let Ok(text) = receiver.try_recv() {
                    pass_on(text);
                }
                return done;
            }
        }
    }
}
