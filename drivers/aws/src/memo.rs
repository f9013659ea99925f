//! What is asked once, however many hosts want to know it.

use std::{collections::HashMap, hash::Hash, pin::Pin};

use tokio::sync::Mutex;

/// What was found out, by what was asked. Whoever asks the same at the same time waits for the one answer; failures are
/// not kept.
#[derive(Debug)]
pub(crate) struct Memo<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    /// The question is boxed, because futures of the SDK's calls are large.
    pub(crate) async fn get<E>(
        &self,
        key: K,
        ask: Pin<Box<impl Future<Output = Result<V, E>>>>,
    ) -> Result<V, E> {
        let mut known = self.0.lock().await;
        if let Some(value) = known.get(&key) {
            return Ok(value.clone());
        }
        let value = ask.await?;
        known.insert(key, value.clone());
        Ok(value)
    }
}
