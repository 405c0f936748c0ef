//! What a run folder means: one table, for a daemon that starts, for a shim that ended, and for a launcher that died
//! with requests unanswered. Pure: [`super::probe`] gathers the facts.

/// What the journal says of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Its start is decided; its script may, or may not yet, have begun.
    Starting,
    /// Its script has begun.
    Running,
}

/// What is at the place of the run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// Nothing.
    Missing,
    /// A folder of another journal, or something that is no run folder.
    Foreign,
    /// The run's own.
    Ours,
}

/// What is at the place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// Something that can't be believed.
    Damaged,
    /// A valid record with the run's token.
    Valid,
}

/// What is at the place of the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing, or nothing that can be believed: it does not say that user code ran.
    No,
    /// A daemon's: no shim ever gets past it.
    ByStop,
    /// A shim's that lives.
    ByLiving,
    /// A shim's that has ended.
    ByDead,
}

/// All that the table asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The journal's word.
    pub row: Row,
    /// The row was made `starting` in this boot of the host.
    pub same_boot: bool,
    /// The run folder.
    pub folder: Folder,
    /// `exit.json`.
    pub exit: Found,
    /// Both logs have the lengths that `exit.json` says.
    pub logs_match: bool,
    /// Somebody holds the lock.
    pub locked: bool,
    /// `claim`.
    pub claim: Claimed,
    /// `started.json`.
    pub started: Found,
}

/// What the facts mean, and so what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It ended, and `exit.json` says how.
    Ended,
    /// The host went down under it.
    PowerLost,
    /// Its shim lives: wait for it.
    Alive,
    /// Somebody is on the way in or out: wait for the lock.
    WaitForLock,
    /// No user code ran: begin anew.
    NothingRan,
    /// It was stopped before it started.
    StoppedBeforeStart,
    /// Its number is taken by a folder that is not ours.
    FolderTaken,
    /// Somebody removed the folder of a run that had begun.
    FolderGone,
    /// The shim was killed, and nobody knows how the script ended, or whether it has.
    ShimKilled,
    /// The files contradict what batchd does: a disk or a hand.
    Damaged,
}

impl Finding {
    /// Whether it holds only as long as no shim comes by: it has to be found again by one who holds the lock.
    pub(super) fn needs_lock(self) -> bool {
        match self {
            Self::NothingRan | Self::ShimKilled | Self::StoppedBeforeStart | Self::Damaged => true,
            Self::Ended | Self::PowerLost | Self::Alive | Self::WaitForLock | Self::FolderTaken | Self::FolderGone => {
                false
            }
        }
    }
}

/// The table, row by row, in the order in which the rows hold.
pub fn classify(facts: Facts) -> Finding {
    match facts {
        Facts { exit: Found::Valid, same_boot, logs_match, .. } if same_boot || logs_match => Finding::Ended,
        Facts { same_boot: false, .. } => Finding::PowerLost,
        Facts { locked: true, claim: Claimed::ByLiving, .. } => Finding::Alive,
        Facts { locked: true, .. } => Finding::WaitForLock,
        Facts { folder: Folder::Missing, row: Row::Starting, .. } => Finding::NothingRan,
        Facts { folder: Folder::Missing, row: Row::Running, .. } => Finding::FolderGone,
        Facts { folder: Folder::Foreign, row: Row::Starting, .. } => Finding::FolderTaken,
        Facts { folder: Folder::Foreign, row: Row::Running, .. } => Finding::Damaged,
        Facts { exit: Found::Damaged, .. } | Facts { started: Found::Damaged, .. } => Finding::Damaged,
        Facts { started: Found::Valid, .. } => Finding::ShimKilled,
        Facts { claim: Claimed::ByStop, .. } => Finding::StoppedBeforeStart,
        Facts { row: Row::Starting, .. } => Finding::NothingRan,
        // It had begun, and the file that says so is gone.
        Facts { row: Row::Running, .. } => Finding::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that a shim runs, in this boot.
    const LIVING: Facts = Facts {
        row: Row::Running,
        same_boot: true,
        folder: Folder::Ours,
        exit: Found::Absent,
        logs_match: false,
        locked: true,
        claim: Claimed::ByLiving,
        started: Found::Valid,
    };
    /// Its shim has been killed.
    const KILLED: Facts = Facts { locked: false, claim: Claimed::ByDead, ..LIVING };
    /// A row whose folder has been made, and nothing else.
    const FRESH: Facts =
        Facts { row: Row::Starting, locked: false, claim: Claimed::No, started: Found::Absent, ..LIVING };
    /// Nothing on the disk.
    const NOWHERE: Facts = Facts { folder: Folder::Missing, ..FRESH };

    #[test]
    fn the_table() {
        let check = |facts: Facts, expected: Finding| assert_eq!(classify(facts), expected, "{facts:?}");
        check(Facts { exit: Found::Valid, ..LIVING }, Finding::Ended);
        check(Facts { exit: Found::Valid, row: Row::Starting, ..KILLED }, Finding::Ended);
        check(Facts { exit: Found::Valid, same_boot: false, logs_match: true, ..KILLED }, Finding::Ended);
        check(Facts { exit: Found::Valid, same_boot: false, logs_match: false, ..KILLED }, Finding::PowerLost);
        check(Facts { same_boot: false, ..FRESH }, Finding::PowerLost);
        check(Facts { same_boot: false, ..NOWHERE }, Finding::PowerLost);
        check(LIVING, Finding::Alive);
        check(Facts { row: Row::Starting, started: Found::Absent, ..LIVING }, Finding::Alive);
        check(Facts { claim: Claimed::ByDead, ..LIVING }, Finding::WaitForLock);
        check(Facts { locked: true, ..FRESH }, Finding::WaitForLock);
        check(NOWHERE, Finding::NothingRan);
        check(FRESH, Finding::NothingRan);
        check(Facts { claim: Claimed::ByDead, ..FRESH }, Finding::NothingRan);
        check(Facts { claim: Claimed::ByStop, ..FRESH }, Finding::StoppedBeforeStart);
        check(Facts { folder: Folder::Foreign, ..FRESH }, Finding::FolderTaken);
        check(Facts { row: Row::Running, ..NOWHERE }, Finding::FolderGone);
        check(KILLED, Finding::ShimKilled);
        check(Facts { row: Row::Starting, ..KILLED }, Finding::ShimKilled);
        // A shim that is about to end has let go of nothing yet: it still counts as on its way out.
        check(Facts { claim: Claimed::ByLiving, ..KILLED }, Finding::ShimKilled);
        check(Facts { exit: Found::Damaged, ..KILLED }, Finding::Damaged);
        check(Facts { exit: Found::Damaged, ..LIVING }, Finding::Alive);
        check(Facts { started: Found::Damaged, ..FRESH }, Finding::Damaged);
        check(Facts { started: Found::Absent, ..KILLED }, Finding::Damaged);
        check(Facts { folder: Folder::Foreign, ..KILLED }, Finding::Damaged);
    }

    #[test]
    fn nothing_is_begun_anew_where_user_code_may_have_run() {
        let rows = [Row::Starting, Row::Running];
        let founds = [Found::Absent, Found::Damaged, Found::Valid];
        let claims = [Claimed::No, Claimed::ByStop, Claimed::ByLiving, Claimed::ByDead];
        let folders = [Folder::Missing, Folder::Foreign, Folder::Ours];
        for ((row, exit), (claim, folder)) in pairs(&pairs(&rows, &founds), &pairs(&claims, &folders)) {
            for (started, (locked, same_boot)) in pairs(&founds, &pairs(&[false, true], &[false, true])) {
                let facts = Facts { row, same_boot, folder, exit, logs_match: true, locked, claim, started };
                if classify(facts) == Finding::NothingRan {
                    assert!(same_boot && !locked && row == Row::Starting, "{facts:?}");
                    assert!(
                        folder == Folder::Missing || (exit, started) == (Found::Absent, Found::Absent),
                        "{facts:?}"
                    );
                }
            }
        }
    }

    fn pairs<A: Copy, B: Copy>(left: &[A], right: &[B]) -> Vec<(A, B)> {
        left.iter().flat_map(|a| right.iter().map(|b| (*a, *b))).collect()
    }
}
