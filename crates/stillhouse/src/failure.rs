//! A failure as the user sees it: one chain of causes, one hint where we know the mend, one
//! documented exit code.

use stillhouse_runtime::exit_code;

/// What went wrong, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our own mistake.
    Internal,
    /// The command line or the job file.
    Usage,
    /// Images or labels.
    Data,
    /// The teacher.
    Teacher,
    /// The budget pays for too little.
    Budget,
    /// The job directory is locked or belongs to another job.
    Directory,
    /// Disk full, or files damaged.
    Storage,
    /// Workers that do not start, or die again and again.
    Workers,
    /// The user asked to stop; running again goes on.
    Interrupted,
}

impl Kind {
    /// The process exit code, see the crate `stillhouse-runtime`.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Kind::Internal => exit_code::INTERNAL,
            Kind::Usage => exit_code::USAGE,
            Kind::Data => exit_code::INPUT_DATA,
            Kind::Teacher => exit_code::TEACHER,
            Kind::Budget => exit_code::BUDGET,
            Kind::Directory => exit_code::JOB_DIRECTORY,
            Kind::Storage => exit_code::STORAGE,
            Kind::Workers => exit_code::WORKER,
            Kind::Interrupted => exit_code::INTERRUPTED,
        }
    }
}

impl Kind {
    /// The kind of a process that ended with `code`.
    #[must_use]
    pub fn of_exit_code(code: i32) -> Self {
        let kinds = [
            Kind::Usage,
            Kind::Data,
            Kind::Teacher,
            Kind::Budget,
            Kind::Directory,
            Kind::Storage,
            Kind::Workers,
            Kind::Interrupted,
        ];
        let found = kinds.into_iter().find(|kind| kind.exit_code() == code);
        found.unwrap_or(Kind::Internal)
    }
}

/// A failure on its way to the user.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    error: anyhow::Error,
    hint: Option<String>,
    findings: Option<String>,
}

impl Failure {
    /// A failure of `kind` caused by `error`.
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            error: error.into(),
            hint: None,
            findings: None,
        }
    }

    /// A failure of `kind` that `message` explains.
    pub fn message(kind: Kind, message: impl std::fmt::Display) -> Self {
        Self::new(kind, anyhow::anyhow!("{message}"))
    }

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, what: impl std::fmt::Display + Send + Sync + 'static) -> Self {
        self.error = self.error.context(what);
        self
    }

    /// Says how to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says how to mend it, where that is known.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Gives the output of a command that did its work and found something wrong.
    #[must_use]
    pub fn with_findings(mut self, findings: String) -> Self {
        self.findings = Some(findings);
        self
    }

    /// What the command found, for standard output.
    #[must_use]
    pub fn findings(&self) -> Option<&str> {
        self.findings.as_deref()
    }

    /// What happened, on one line and without what to do about it.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("{:#}", self.error)
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {:#}", self.error)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
