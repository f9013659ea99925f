//! Containers by their names, for those who only want them run.

use async_trait::async_trait;
use engine_model::Failure;
use engine_model::executor::{Executor, LogRequest, Logs, Prepared};
use engine_model::life::Life;
use engine_model::wire::CreateRequest;
use tokio::sync::watch;

use super::Containers;

#[async_trait]
impl Executor for Containers {
    async fn prepare(&self, name: Option<String>, request: CreateRequest) -> Result<Prepared, Failure> {
        let created = self.create(name, request).await?;
        Ok(Prepared { id: created.container.id.clone(), warnings: created.warnings })
    }

    async fn lend(&self, container: &str, variables: Vec<String>) -> Result<(), Failure> {
        *self.find(container)?.lent() = variables;
        Ok(())
    }

    async fn start(&self, container: &str) -> Result<(), Failure> {
        Ok(Self::start(self, &self.find(container)?).await?)
    }

    async fn wait(&self, container: &str) -> Result<watch::Receiver<Life>, Failure> {
        Ok(self.find(container)?.life())
    }

    async fn stop(&self, container: &str, seconds: Option<i64>, signal: Option<i32>) -> Result<(), Failure> {
        Ok(Self::stop(self, &self.find(container)?, seconds, signal).await?)
    }

    async fn remove(&self, container: &str, force: bool, volumes: bool) -> Result<(), Failure> {
        Ok(Self::remove(self, &self.find(container)?, force, volumes).await?)
    }

    async fn logs(&self, container: &str, request: LogRequest) -> Result<Logs, Failure> {
        let container = self.find(container)?;
        let terminal = container.identity().config.tty;
        Ok(Logs { terminal, stream: Self::logs(self, &container, request).await? })
    }
}
