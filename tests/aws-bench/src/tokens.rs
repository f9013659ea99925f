//! Client tokens: the same call twice makes one set of instances.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use crate::{faults::ApiError, form::Form, xml::Element};

/// What was asked for with a token, and what was answered.
#[derive(Debug, Clone)]
struct Done {
    parameters: BTreeMap<String, String>,
    reply: Element,
}

type Slot = Arc<tokio::sync::Mutex<Option<Done>>>;

/// The tokens of all regions.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<(String, String), Slot>>);

/// A call with a token whose first answer is about to be made.
#[derive(Debug)]
pub(crate) struct Pending {
    slot: OwnedMutexGuard<Option<Done>>,
    parameters: BTreeMap<String, String>,
}

impl Tokens {
    /// The earlier reply, or the right to make one. A second call waits for the first one.
    pub(crate) async fn enter(
        &self,
        region: &str,
        form: &Form,
    ) -> Result<Result<Element, Pending>, ApiError> {
        let token = form.get("ClientToken").unwrap_or_default();
        let key = (region.to_owned(), token.to_owned());
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let slot = slot.lock_owned().await;
        let mut parameters = form.0.clone();
        parameters.remove("DryRun");
        parameters.remove("Version");
        match &*slot {
            None => Ok(Err(Pending { slot, parameters })),
            Some(done) if done.parameters == parameters => Ok(Ok(done.reply.clone())),
            Some(_) => Err(ApiError::new(
                "IdempotentParameterMismatch",
                format!(
                    "The client token you have provided ({token}) is associated with a resource that is already \
                     created with different parameters."
                ),
            )),
        }
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Pending {
    /// Only what succeeded is remembered.
    pub(crate) fn done(mut self, reply: Element) {
        *self.slot = Some(Done { parameters: self.parameters, reply });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(token: &str, kind: &str) -> Form {
        Form::of(&[("ClientToken", token), ("InstanceType", kind)])
    }

    #[tokio::test]
    async fn the_same_token_gives_the_same_reply() {
        let tokens = Tokens::default();
        let pending = tokens.enter("r", &form("t", "a")).await.unwrap().unwrap_err();
        pending.done(Element::new("first"));
        assert_eq!(tokens.enter("r", &form("t", "a")).await.unwrap().unwrap(), Element::new("first"));
        let error = tokens.enter("r", &form("t", "b")).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "IdempotentParameterMismatch"));
        assert!(tokens.enter("other", &form("t", "b")).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_and_the_second_call_waits() {
        let tokens = Arc::new(Tokens::default());
        let failed = tokens.enter("r", &form("t", "a")).await.unwrap().unwrap_err();
        let waiting = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.enter("r", &form("t", "a")).await.unwrap().is_err() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(failed);
        assert!(waiting.await.unwrap());
    }
}
