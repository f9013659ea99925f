//! `moby.buildkit.v1.Control`: builds, what becomes of them, and what they keep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine_build::Builder;
use engine_model::{Failure, ImageId, platform};
use jiff::Timestamp;

use super::exports::{self, Form};
use super::gateway;
use super::grpc::{Code, Status};
use super::house::{House, PruneWish, Record};
use super::job::{Held, Job, Jobs};
use super::messages::Platform;
use super::messages::control::{
    BuildkitVersion, CacheOptionsEntry, DiskUsageRequest, DiskUsageResponse, Exporter, InfoResponse,
    ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, UsageRecord, WorkerRecord,
};
use super::options::{self, Options, warn_of_caches};
use super::session::Sessions;
use super::solve;

/// The version of BuildKit whose interface this is, as far as it goes.
const VERSION: &str = "v0.13.0";
/// The label by which clients learn how containers reach the host.
const HOST_GATEWAY: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";

/// The control service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) builder: Builder,
    pub(crate) house: Arc<dyn House>,
    pub(crate) sessions: Sessions,
    pub(crate) jobs: Jobs,
}

/// Where a result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Export {
    Nowhere,
    /// Among the engine's images, by these names.
    Image(Vec<String>),
    /// To the client, as files.
    Files(Form),
}

impl Control {
    /// Builds with `builder`, for clients that open their sessions with `sessions`.
    pub fn new(builder: Builder, house: Arc<dyn House>, sessions: Sessions) -> Self {
        Self { builder, house, sessions, jobs: Jobs::default() }
    }

    pub(crate) fn worker(&self) -> WorkerRecord {
        let gateway = self.house.host_gateway();
        WorkerRecord {
            id: "engine".to_owned(),
            labels: gateway
                .map(|address| (HOST_GATEWAY.to_owned(), address.to_string()))
                .into_iter()
                .collect(),
            platforms: vec![Platform {
                architecture: platform::architecture().to_owned(),
                os: "linux".to_owned(),
            }],
            version: Some(version()),
        }
    }

    pub(crate) fn workers(&self) -> ListWorkersResponse {
        ListWorkersResponse { record: vec![self.worker()] }
    }

    pub(crate) fn info() -> InfoResponse {
        InfoResponse { version: Some(version()) }
    }

    /// Builds from the beginning to the end. Dropped, it breaks the build off.
    pub(crate) async fn solve(&self, request: SolveRequest) -> Result<SolveResponse, Status> {
        let session = self.sessions.get(&request.session).await?;
        let export = Export::understand(&request);
        let hides_result = !matches!(export, Ok(Export::Image(_)));
        let cache = request.cache.clone().unwrap_or_default();
        let caches = warn_of_caches(&cache.exports);
        let warnings = caches.clone().unwrap_or_default();
        // From here on its client, which waits for that, is told that the build is over.
        let (held, returned) = self.jobs.begin(&request.reference, session, hides_result, warnings)?;
        caches?;
        let export = export?;
        refuse(&request)?;
        let job = Arc::clone(&held.job);
        let id = if request.frontend.is_empty() {
            let returned = tokio::select! {
                returned = returned => returned.ok(),
                () = job.cancelled.cancelled() => None,
            };
            let gone = || Status::new(Code::Cancelled, "the session of this build has ended");
            match gateway::returned(returned.ok_or_else(gone)?)? {
                Some(result) => Some(job.result(&result)?.await?),
                None => None,
            }
        } else {
            options::check_frontend(&request.frontend, &request.frontend_attributes)?;
            Some(self.whole(&job, &request.frontend_attributes, &cache.imports).await?)
        };
        let exporter_response = match id {
            Some(id) => self.export(&held, &export, &id).await?,
            None => BTreeMap::new(),
        };
        Ok(SolveResponse { exporter_response })
    }

    /// What a client wants built that does not lead its build itself.
    async fn whole(
        &self,
        job: &Arc<Job>,
        attributes: &BTreeMap<String, String>,
        imports: &[CacheOptionsEntry],
    ) -> Result<ImageId, Status> {
        let mut options = Options::understand(attributes)?;
        for import in imports {
            options.import(&import.kind, &import.attributes);
        }
        let place = job.reserve()?;
        let drafted = solve::draft(&self.builder, job, options).await?;
        let (_, outcome) = job.add(&place, solve::carry_out(self.builder.clone(), Arc::clone(job), drafted));
        outcome.await
    }

    async fn export(
        &self,
        held: &Held,
        export: &Export,
        id: &ImageId,
    ) -> Result<BTreeMap<String, String>, Status> {
        let names = match export {
            Export::Nowhere => return Ok(BTreeMap::new()),
            Export::Files(form) => {
                let step = held.job.progress.begin(form.title());
                let (session, cancelled) = (&held.job.session, &held.job.cancelled);
                let sent = exports::send(&self.builder, session, id, *form, &step, cancelled).await;
                step.end(false, sent.as_ref().err().map(|error| error.message.as_str()));
                return sent.map(|()| BTreeMap::new());
            }
            Export::Image(names) => names.clone(),
        };
        let step = held.job.progress.begin("exporting to image");
        step.part("exporting layers", 0, 0, true);
        step.part(&format!("writing image {id}"), 0, 0, true);
        let (house, image) = (Arc::clone(&self.house), id.clone());
        let named = blocking(move || {
            names.iter().map(|name| house.tag(&image, name)).collect::<Result<Vec<_>, Failure>>()
        });
        let named = match named.await {
            Ok(named) => named,
            Err(error) => {
                step.end(false, Some(&error.message));
                return Err(error);
            }
        };
        for name in &named {
            step.part(&format!("naming to {name}"), 0, 0, true);
        }
        step.end(false, None);
        let mut response = BTreeMap::from([
            ("containerimage.digest".to_owned(), id.to_string()),
            ("containerimage.config.digest".to_owned(), id.to_string()),
        ]);
        if !named.is_empty() {
            response.insert("image.name".to_owned(), named.join(","));
        }
        Ok(response)
    }

    pub(crate) async fn usage(&self, request: DiskUsageRequest) -> Result<DiskUsageResponse, Status> {
        let filters = Filters::parse(&request.filter)?;
        let house = Arc::clone(&self.house);
        let records = blocking(move || house.records()).await?;
        let fitting = records.into_iter().filter(|record| filters.fit(record));
        Ok(DiskUsageResponse { record: fitting.map(UsageRecord::from).collect() })
    }

    pub(crate) async fn prune(&self, request: PruneRequest) -> Result<Vec<UsageRecord>, Status> {
        for (name, value) in
            [("max-used-space", request.max_used_space), ("min-free-space", request.min_free_space)]
        {
            if value != 0 {
                return Err(Status::new(
                    Code::Unknown,
                    format!("`--{name}` is not supported by this engine"),
                ));
            }
        }
        let filters = Filters::parse(&request.filter)?;
        if filters.kind.is_some() {
            return Err(Status::new(Code::Unknown, "pruning by `type` is not supported by this engine"));
        }
        let age = Duration::from_nanos(u64::try_from(request.keep_duration).unwrap_or(0));
        let house = Arc::clone(&self.house);
        let mut wish = PruneWish {
            all: request.all,
            until: (!age.is_zero()).then(|| Timestamp::now().saturating_sub(age).unwrap_or(Timestamp::MIN)),
            ids: Vec::new(),
            reserved: u64::try_from(request.keep_bytes).unwrap_or(0),
        };
        let prune = move || {
            if !filters.ids.is_empty() {
                let fitting = house.records()?.into_iter().filter(|record| filters.fit(record));
                wish.ids = fitting.map(|record| record.id).collect();
                // None would mean all.
                if wish.ids.is_empty() {
                    return Ok(Vec::new());
                }
            }
            house.prune(&wish)
        };
        let removed = blocking(prune).await?;
        Ok(removed.into_iter().map(UsageRecord::from).collect())
    }
}

/// Refuses what no build is made of here.
fn refuse(request: &SolveRequest) -> Result<(), Status> {
    let is_empty = request.definition.as_ref().is_none_or(|definition| definition.operations.is_empty());
    if !is_empty || !request.frontend_inputs.is_empty() {
        return Err(solve::no_operations());
    }
    if request.source_policy.is_some() {
        return Err(solve::no_policy());
    }
    if let Some(entitlement) = request.entitlements.iter().find(|name| *name != "network.host") {
        let message = format!("`--allow {entitlement}` is not supported by this engine");
        return Err(Status::new(Code::Unknown, message));
    }
    Ok(())
}

fn version() -> BuildkitVersion {
    let package = concat!("engine/", env!("CARGO_PKG_VERSION")).to_owned();
    BuildkitVersion { package, version: VERSION.to_owned(), revision: String::new() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Status::new(Code::Internal, format!("Work was cut short: {error}")))?;
    done.map_err(Status::from)
}

impl Export {
    fn understand(request: &SolveRequest) -> Result<Self, Status> {
        let own =
            Exporter { kind: request.exporter.clone(), attributes: request.exporter_attributes.clone() };
        let exporter = match &request.exporters[..] {
            [] => &own,
            [one] => one,
            _ => {
                return Err(Status::new(
                    Code::Unknown,
                    "several outputs of a build are not supported by this engine",
                ));
            }
        };
        let refused =
            |what: &str| Err(Status::new(Code::Unknown, format!("{what} is not supported by this engine")));
        match exporter.kind.as_str() {
            "" => return Ok(Self::Nowhere),
            "local" => return files(Form::Directory, exporter),
            "tar" => return files(Form::Archive, exporter),
            "moby" | "image" => {}
            other => return refused(&format!("`--output type={other}`")),
        }
        let mut names = Vec::new();
        for (name, value) in &exporter.attributes {
            match (name.as_str(), value.as_str()) {
                ("name", value) => {
                    names.extend(value.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
                }
                // Clients of the engine push by themselves, through the API.
                ("push", _) if exporter.kind == "moby" => {}
                ("store", "" | "true" | "1") => {}
                ("store", value) => return refused(&format!("`--output store={value}`")),
                // Where the image is to be, it is, and unpacked: there is no other way here.
                ("load" | "context", _) | ("unpack", "true" | "1") | (_, "" | "false" | "0") => {}
                (name, value) => return refused(&format!("`--output {name}={value}`")),
            }
        }
        Ok(Self::Image(names))
    }
}

/// What goes to the client as files has no names, and is of one platform.
fn files(form: Form, exporter: &Exporter) -> Result<Export, Status> {
    let is_known = |(name, value): &(&String, &String)| {
        matches!((name.as_str(), value.as_str()), ("platform-split", "false" | "0") | (_, ""))
    };
    match exporter.attributes.iter().find(|attribute| !is_known(attribute)) {
        None => Ok(Export::Files(form)),
        Some((name, value)) => {
            let message =
                format!("`--output type={},{name}={value}` is not supported by this engine", exporter.kind);
            Err(Status::new(Code::Unknown, message))
        }
    }
}

/// Which ids are meant.
#[derive(Debug, PartialEq, Eq)]
enum IdFilter {
    Is(String),
    Begins(String),
    Has(String),
}

impl IdFilter {
    fn parse(filter: &str) -> Option<Self> {
        let plain = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
            text.bytes().all(fits).then(|| text.to_owned())
        };
        if let Some(id) = filter.strip_prefix("id==") {
            plain(id).map(Self::Is)
        } else if let Some(id) = filter.strip_prefix("id~=^") {
            plain(id).map(Self::Begins)
        } else {
            plain(filter.strip_prefix("id~=")?).map(Self::Has)
        }
    }

    fn fits(&self, id: &str) -> bool {
        match self {
            Self::Is(whole) => id == whole,
            Self::Begins(beginning) => id.starts_with(beginning.as_str()),
            Self::Has(part) => id.contains(part.as_str()),
        }
    }
}

/// What records are meant, as containerd writes it: `id==x`, `id~=^x`, `type==regular`.
#[derive(Debug, Default)]
struct Filters {
    ids: Vec<IdFilter>,
    kind: Option<String>,
}

impl Filters {
    fn parse(filters: &[String]) -> Result<Self, Status> {
        let mut parsed = Self::default();
        for filter in filters.iter().flat_map(|filter| filter.split(',')).filter(|filter| !filter.is_empty())
        {
            if let Some(id) = IdFilter::parse(filter) {
                parsed.ids.push(id);
            } else if let Some(kind) = filter.strip_prefix("type==") {
                parsed.kind = Some(kind.to_owned());
            } else {
                return Err(Status::new(
                    Code::Unknown,
                    format!("the filter `{filter}` is not supported by this engine"),
                ));
            }
        }
        Ok(parsed)
    }

    fn fit(&self, record: &Record) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| id.fits(&record.id)))
            && self.kind.as_ref().is_none_or(|kind| record.kind == *kind)
    }
}

impl From<Record> for UsageRecord {
    fn from(record: Record) -> Self {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            id: record.id,
            size: number(record.size),
            created_at: Some(record.created.unwrap_or(Timestamp::UNIX_EPOCH).into()),
            last_used_at: record.last_used.map(Into::into),
            usage_count: number(record.uses),
            description: record.description,
            record_type: record.kind,
            shared: record.is_shared,
            parents: record.parent.into_iter().collect(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ids_are_whole_or_parts() {
        let fits = |filter: &str, id: &str| {
            let record = Record { id: id.to_owned(), ..Record::default() };
            Filters::parse(&[filter.to_owned()]).unwrap().fit(&record)
        };
        assert!(fits("id==abc", "abc") && !fits("id==a", "abc"));
        assert!(fits("id~=^ab", "abc") && !fits("id~=^bc", "abc"));
        assert!(fits("id~=bc", "abc") && !fits("id~=d", "abc"));
        assert!(Filters::parse(&["id~=a.*".to_owned()]).is_err());
    }

    #[test]
    fn outputs_that_would_not_come_about_are_refused() {
        let export = |kind: &str, name: &str, value: &str| {
            let exporter_attributes = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let exporter = kind.to_owned();
            Export::understand(&SolveRequest { exporter, exporter_attributes, ..SolveRequest::default() })
        };
        assert!(export("moby", "push", "true").is_ok());
        assert!(export("image", "push", "true").is_err());
        assert!(export("image", "push", "false").is_ok());
        assert!(export("image", "store", "true").is_ok());
        assert!(export("image", "store", "false").is_err());
    }
}
