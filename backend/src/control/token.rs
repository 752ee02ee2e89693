//! The tokens by which the control thread knows the events of its epoll set.

/// A source of events. Higher tokens are clients of the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Token {
    /// A signal asks the process to end.
    Termination = 0,
    /// A front-end wants to connect.
    Listener = 1,
    /// The session has ended.
    Session = 2,
    /// A client wants to connect to the control socket.
    Control = 3,
    /// A job, or the session, has left a result.
    Results = 4,
    /// The storage may have changed.
    Storage = 5,
    /// A worker has work.
    Watchdog = 6,
}

/// The token of the first client of the control socket.
pub(super) const FIRST_CLIENT: u64 = 16;

const ALL: [Token; 7] = [
    Token::Termination,
    Token::Listener,
    Token::Session,
    Token::Control,
    Token::Results,
    Token::Storage,
    Token::Watchdog,
];

impl Token {
    /// The source whose events have `token`; none for a client.
    pub(super) fn of(token: u64) -> Option<Self> {
        ALL.into_iter().find(|it| *it as u64 == token)
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        token as Self
    }
}
