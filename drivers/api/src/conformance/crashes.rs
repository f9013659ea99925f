//! The plug is pulled at each point; then the host is made whole, or removed.

use tempfile::TempDir;

use super::{
    Crashes, Report, Suite, Violation,
    fixture::{Call, Host, Plug},
    violated,
};

const RESUME: &str = "`create` after a crash goes on to exactly one running host";
const UNDO: &str = "`remove` after a crash leaves nothing";
const REMOVE: &str = "`remove` after a crash of `remove` leaves nothing";
const ENDLESS: &str = "A call writes to the journal a bounded number of times";

/// Far more than any driver writes; a journal that grows for ever is a fault of its own.
const MOST_WRITES: usize = 500;

/// Points among so many writes, all different, always the same for one seed.
fn seeded(seed: u64, points: usize, writes: usize) -> Vec<Plug> {
    let mut all: Vec<Plug> =
        (0..writes).flat_map(|write| [Plug::Before(write), Plug::After(write)]).collect();
    let mut state = seed | 1;
    let mut chosen = Vec::new();
    while chosen.len() < points && !all.is_empty() {
        // Xorshift (Marsaglia 2003): no quality is asked for but that one seed always gives the same.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = usize::try_from(state % all.len() as u64).unwrap_or_default();
        chosen.push(all.swap_remove(at));
    }
    chosen
}

impl Suite<'_> {
    pub(super) async fn crash(&self, report: &mut Report, kinds: &[String]) -> Result<(), Violation> {
        let cache = tempfile::tempdir()
            .or_else(|error| violated("The suite can set up a host", error.to_string()))?;
        match self.crashes {
            Crashes::Nowhere => return Ok(()),
            Crashes::Seeded { seed, points } => {
                let mut host = self.host(&cache).await?;
                host.make_folder()?;
                host.call(Call::Create).await?;
                let plugs = seeded(seed, points, host.journal.writes());
                self.removed(&mut host, UNDO).await?;
                for plug in plugs {
                    self.resume(&cache, kinds, plug, report).await?;
                }
            }
            Crashes::Everywhere => {
                self.everywhere(&cache, kinds, report).await?;
                self.dropped(&cache, kinds, report).await?;
                self.while_removing(&cache, report).await?;
                report.kept.push(REMOVE);
            }
        }
        report.kept.extend([RESUME, UNDO]);
        Ok(())
    }

    async fn everywhere(
        &self,
        cache: &TempDir,
        kinds: &[String],
        report: &mut Report,
    ) -> Result<(), Violation> {
        for write in 0..MOST_WRITES {
            let mut reached = false;
            for plug in [Plug::Before(write), Plug::After(write)] {
                reached |= self.resume(cache, kinds, plug, report).await?;
                reached |= self.undo(cache, plug, report).await?;
            }
            if !reached {
                return Ok(());
            }
        }
        violated(ENDLESS, format!("`create` writes more than {MOST_WRITES} times"))
    }

    /// Crash, create, remove. Returns whether the plug was reached at all.
    async fn resume(
        &self,
        cache: &TempDir,
        kinds: &[String],
        plug: Plug,
        report: &mut Report,
    ) -> Result<bool, Violation> {
        let mut host = self.host(cache).await?;
        host.make_folder()?;
        host.journal.plug_in(Some(plug));
        let cut = matches!(host.attempt(Call::Create, None).await?, Some(Err(_)));
        report.crashes += usize::from(cut);
        self.whole_again(&mut host, kinds, &format!("{plug:?}")).await?;
        Ok(cut)
    }

    async fn whole_again(&self, host: &mut Host<'_>, kinds: &[String], at: &str) -> Result<(), Violation> {
        host.journal.plug_in(None);
        let told =
            |violation: Violation| Violation { detail: format!("{at}: {}", violation.detail), ..violation };
        host.call(Call::Create).await.map_err(told)?;
        self.running(host, RESUME).await.map_err(told)?;
        let found = host.kinds().await;
        if found != kinds {
            return violated(RESUME, format!("{at}: {kinds:?} became {found:?}"));
        }
        self.removed(host, RESUME).await.map_err(told)
    }

    async fn undo(&self, cache: &TempDir, plug: Plug, report: &mut Report) -> Result<bool, Violation> {
        let mut host = self.host(cache).await?;
        host.make_folder()?;
        host.journal.plug_in(Some(plug));
        let cut = matches!(host.attempt(Call::Create, None).await?, Some(Err(_)));
        report.crashes += usize::from(cut);
        host.journal.plug_in(None);
        self.removed(&mut host, UNDO).await.map_err(|violation| Violation {
            detail: format!("{plug:?}: {}", violation.detail),
            ..violation
        })?;
        Ok(cut)
    }

    /// Ctrl-C while the driver waits for something: after one poll, after two, and so on.
    async fn dropped(&self, cache: &TempDir, kinds: &[String], report: &mut Report) -> Result<(), Violation> {
        let mut polls = 1;
        loop {
            let mut host = self.host(cache).await?;
            host.make_folder()?;
            let finished = host.attempt(Call::Create, Some(polls)).await?.is_some();
            report.crashes += usize::from(!finished);
            self.whole_again(&mut host, kinds, &format!("dropped after {polls} polls")).await?;

            let mut host = self.host(cache).await?;
            host.make_folder()?;
            host.attempt(Call::Create, Some(polls)).await?;
            self.removed(&mut host, UNDO).await?;
            if finished || polls > MOST_WRITES {
                return Ok(());
            }
            // Every one of the first few, then ever further apart.
            polls += 1 + polls / 8;
        }
    }

    async fn while_removing(&self, cache: &TempDir, report: &mut Report) -> Result<(), Violation> {
        for write in 0..MOST_WRITES {
            let mut reached = false;
            for plug in [Plug::Before(write), Plug::After(write)] {
                let mut host = self.host(cache).await?;
                host.make_folder()?;
                host.call(Call::Create).await?;
                host.journal.plug_in(Some(plug));
                let cut = matches!(host.attempt(Call::Remove, None).await?, Some(Err(_)));
                report.crashes += usize::from(cut);
                reached |= cut;
                host.journal.plug_in(None);
                self.removed(&mut host, REMOVE).await?;
            }
            if !reached {
                return Ok(());
            }
        }
        violated(ENDLESS, format!("`remove` writes more than {MOST_WRITES} times"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_points_again_and_no_point_twice() {
        let points = seeded(7, 3, 10);
        assert_eq!(points, seeded(7, 3, 10));
        assert_ne!(points, seeded(99, 3, 10));
        let all = seeded(7, 100, 10);
        assert_eq!(all.len(), 20);
        assert!((0..10).all(|write| all.contains(&Plug::Before(write)) && all.contains(&Plug::After(write))));
    }
}
