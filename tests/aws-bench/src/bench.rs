//! What the bench knows: instances, spot requests, key pairs, calls, settings.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::AbortHandle};

use crate::{
    addresses::Addresses,
    amis::Ami,
    call::Record,
    console::Console,
    faults::Faults,
    image::Images,
    moto::Moto,
    rewrite::{Facts, Phase},
    spot::SpotRequest,
    tokens::Tokens,
    vm::Vm,
    xml::Element,
};

/// Everything.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) moto: Moto,
    pub(crate) images: Images,
    pub(crate) folder: PathBuf,
    /// This program's own file.
    pub(crate) program: PathBuf,
    pub(crate) addresses: Addresses,
    pub(crate) tokens: Tokens,
    /// How many VMs may boot at once.
    pub(crate) boots: Arc<Semaphore>,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) spot_requests: BTreeMap<String, SpotRequest>,
    /// Public keys by region and name.
    pub(crate) keys: HashMap<(String, String), String>,
    /// Zones by subnet.
    pub(crate) zones: HashMap<String, String>,
    /// When instances, security groups and key pairs (`key:NAME`) were made.
    pub(crate) born: HashMap<String, Instant>,
    /// Instances and spot requests that ended so long ago that nothing is known of them.
    pub(crate) forgotten: BTreeSet<String>,
    /// What was last shown of the rules of a security group, by its id.
    pub(crate) shown_rules: HashMap<String, Element>,
    pub(crate) regions: BTreeSet<String>,
    pub(crate) calls: Vec<Record>,
    pub(crate) call_count: u64,
    pub(crate) faults: Faults,
    pub(crate) settings: Settings,
}

/// What a test can set. Absent fields stay as they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Whether instances have VMs.
    pub(crate) vms: bool,
    /// The program `machine-guest`, which plays instances without a VM, if they are to be played.
    pub(crate) guests: Option<PathBuf>,
    /// Whether Debian's images boot a real Debian.
    pub(crate) debian_ami_real: bool,
    /// The least time that an instance is pending.
    pub(crate) pending_ms: u64,
    /// The least time that an instance is stopping or shutting down.
    pub(crate) ending_ms: u64,
    /// After this an orderly shutdown is given up.
    pub(crate) shutdown_ms: u64,
    /// MiB of a VM.
    pub(crate) memory: u64,
    /// How the consoles of new instances are falsified.
    pub(crate) console: Console,
    /// The address that `checkip` answers with, in place of the caller's own.
    pub(crate) caller: Option<IpAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vms: true,
            guests: None,
            debian_ami_real: false,
            pending_ms: 1000,
            ending_ms: 500,
            shutdown_ms: 60_000,
            memory: 512,
            console: Console::default(),
            caller: None,
        }
    }
}

/// An instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) subnet: Option<String>,
    pub(crate) vpc: Option<String>,
    pub(crate) ami: &'static Ami,
    pub(crate) kind: String,
    /// Ids and names.
    pub(crate) groups: Vec<(String, String)>,
    /// Name and public key.
    pub(crate) key: Option<(String, String)>,
    pub(crate) user_data: Option<Vec<u8>>,
    pub(crate) metadata_enabled: bool,
    pub(crate) tokens_required: bool,
    pub(crate) phase: Phase,
    /// The state before, and when it ended.
    pub(crate) before: Option<(Phase, Instant)>,
    pub(crate) wants_public: bool,
    pub(crate) public: Option<Ipv4Addr>,
    pub(crate) private: Ipv4Addr,
    pub(crate) mac: String,
    pub(crate) interface: Option<String>,
    /// GiB.
    pub(crate) disk: u64,
    pub(crate) terminate_on_shutdown: bool,
    pub(crate) spot_request: Option<String>,
    /// When the instance will be taken away, once that is announced. RFC 3339.
    pub(crate) interruption: Option<String>,
    /// Code and message.
    pub(crate) reason: Option<(String, String)>,
    pub(crate) client_token: String,
    pub(crate) uuid: String,
    pub(crate) folder: PathBuf,
    pub(crate) launched: String,
    /// Counts what was asked of the instance: whoever acts later sees that it was overtaken.
    pub(crate) generation: u64,
    pub(crate) vm: Option<Vm>,
    /// What plays it, if it has no VM.
    pub(crate) guest: Option<guest::Guest>,
    /// Held while a VM is being started.
    pub(crate) launching: Arc<tokio::sync::Mutex<()>>,
    pub(crate) metadata: Option<AbortHandle>,
    pub(crate) console: Console,
}

impl Instance {
    /// Changes the state.
    pub(crate) fn enter(&mut self, phase: Phase) {
        if phase != self.phase {
            self.before = Some((self.phase, Instant::now()));
        }
        self.phase = phase;
    }

    /// What is shown; for `stale` after a change, the state is the one before.
    pub(crate) fn facts(&self, stale: Duration) -> Facts {
        let before = self.before.filter(|(_, ended)| ended.elapsed() < stale).map(|(phase, _)| phase);
        Facts {
            phase: before.unwrap_or(self.phase),
            public: self.public,
            private: self.private,
            groups: self.groups.clone(),
            spot_request: self.spot_request.clone(),
            reason: self.reason.clone(),
            client_token: self.client_token.clone(),
        }
    }
}

impl Bench {
    pub(crate) fn new(
        moto: Moto,
        images: Images,
        folder: PathBuf,
        program: PathBuf,
        addresses: Addresses,
        boots: usize,
        settings: Settings,
    ) -> Self {
        Self {
            moto,
            images,
            folder,
            program,
            addresses,
            tokens: Tokens::default(),
            boots: Arc::new(Semaphore::new(boots)),
            state: Mutex::new(State { settings, ..State::default() }),
        }
    }

    /// Never held while waiting for anything.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether something was made so recently that it is not seen everywhere yet, or ended so long ago that it is not
    /// known any more.
    pub(crate) fn is_unseen(&self, id: &str) -> bool {
        let time = Duration::from_millis(self.faults.not_found);
        let is_new = !time.is_zero() && self.born.get(id).is_some_and(|born| born.elapsed() < time);
        is_new || self.forgotten.contains(id)
    }
}

/// The time now, as the API writes it.
pub(crate) fn now() -> String {
    later(Duration::ZERO)
}

/// The time after a while.
pub(crate) fn later(after: Duration) -> String {
    let time = jiff::Timestamp::now();
    let time = time.checked_add(after).unwrap_or(time);
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}
