//! Tokens and who they belong to.

use std::time::Duration;

use base::{Epoch, WallTime};
use etcd::auth::AuthRequest;
use etcd::{Plan, Request, RequestLimits};
use state::{EntryStamp, State};

use super::tokens::KeyError;
use super::*;
use crate::configuration::JwtOptions;

/// A state whose users and roles an authority is told of.
struct World {
    state: State,
    authority: Authority,
    cache: TokenCache,
}

impl World {
    fn new(tokens: Tokens, limits: &AuthLimits) -> World {
        World {
            state: State::new(state::Limits::default()),
            authority: Authority::new(tokens, 4, limits, Clock::start()),
            cache: TokenCache::new(limits),
        }
    }

    /// With root and `u`, and authentication on.
    fn enabled(tokens: Tokens, limits: &AuthLimits) -> World {
        let mut world = World::new(tokens, limits);
        world.change(user_add("root"));
        world.change(user_add("u"));
        world.change(AuthRequest::UserGrantRole {
            user: "root".into(),
            role: "root".into(),
        });
        world.change(AuthRequest::Enable { token_key: [1; 32] });
        world
    }

    /// Root, or anybody while authentication is off, changes something.
    fn change(&mut self, request: AuthRequest) {
        let caller = Arc::new(Caller {
            user: "root".into(),
            revision: etcd::auth::status(self.state.reader()).revision,
        });
        let request = Request::Auth(request);
        let plan = etcd::plan_for(Some(caller), request, &RequestLimits::default());
        let Ok(Plan::Command(record)) = plan else {
            panic!("not a change: {plan:?}");
        };
        let slot = self.state.reader().applied().next();
        self.state.begin_entry(&EntryStamp {
            slot,
            epoch: Epoch(1),
            wall: WallTime(0),
            elapsed: Duration::ZERO,
        });
        let answer = etcd::execute(self.state.transaction(), &record);
        assert!(self.state.end_entry().is_empty());
        assert!(answer.is_ok(), "{answer:?}");
        let access = Access::of(self.state.reader());
        self.authority.told(Arc::new(access));
    }

    fn token(&self, user: &str) -> String {
        let access = self.authority.access();
        let generation = access.generation(user).expect("the user exists");
        let revision = access.status().revision;
        let token = self.authority.issue(user, generation, revision);
        token.expect("there is a key")
    }

    fn caller(&mut self, token: &str) -> Result<Option<Caller>, etcd::Error> {
        let token = Some(token.as_bytes());
        let caller = self.authority.caller(token, None, &mut self.cache)?;
        Ok(caller.map(|caller| Caller::clone(&caller)))
    }
}

fn user_add(name: &str) -> AuthRequest {
    AuthRequest::UserAdd {
        name: name.into(),
        password_hash: Some("hash".into()),
    }
}

fn password(user: &str) -> AuthRequest {
    AuthRequest::UserChangePassword {
        name: user.into(),
        password_hash: "other".into(),
    }
}

#[test]
fn a_simple_token_ends_with_its_user_its_password_or_authentication() {
    let mut world = World::enabled(Tokens::Simple, &AuthLimits::default());
    let (token, root) = (world.token("u"), world.token("root"));
    let known = world.caller(&token).unwrap().unwrap();
    assert_eq!((known.user.as_str(), known.revision), ("u", 4));
    // Somebody else's change leaves it good, and is known at once.
    world.change(password("root"));
    assert_eq!(world.caller(&token).unwrap().unwrap().revision, 5);
    assert_eq!(world.caller(&root), Err(etcd::Error::InvalidAuthToken));
    world.change(password("u"));
    assert_eq!(world.caller(&token), Err(etcd::Error::InvalidAuthToken));
    let token = world.token("u");
    assert!(world.caller(&token).is_ok());
    world.change(AuthRequest::UserDelete { name: "u".into() });
    assert_eq!(world.caller(&token), Err(etcd::Error::InvalidAuthToken));
    world.change(user_add("u"));
    assert_eq!(world.caller(&token), Err(etcd::Error::InvalidAuthToken));
    let token = world.token("u");
    world.change(AuthRequest::Disable);
    assert_eq!(world.caller("anything"), Ok(None), "nobody has to sign in");
    world.change(AuthRequest::Enable { token_key: [2; 32] });
    assert_eq!(world.caller(&token), Err(etcd::Error::InvalidAuthToken));
}

#[test]
fn what_was_not_signed_by_the_cluster_is_nobodys() {
    let mut world = World::enabled(Tokens::Simple, &AuthLimits::default());
    let token = world.token("u");
    for position in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' {
            b'B'
        } else {
            b'A'
        };
        // The last letter of a signature holds bits that say nothing.
        if position + 1 == token.len() {
            continue;
        }
        let caller = world
            .authority
            .caller(Some(&changed), None, &mut world.cache);
        assert_eq!(
            caller,
            Err(etcd::Error::InvalidAuthToken),
            "letter {position}"
        );
    }
    for token in ["", "x", "a.b.c", "Bearer ", "\u{fc}"] {
        assert_eq!(world.caller(token), Err(etcd::Error::InvalidAuthToken));
    }
    // Signed by another cluster, or with no signature at all.
    let other = World::enabled(Tokens::Simple, &AuthLimits::default());
    assert!(
        world.caller(&other.token("u")).is_ok(),
        "the same key, on another node"
    );
    let mut stranger = World::new(Tokens::Simple, &AuthLimits::default());
    stranger.change(user_add("root"));
    stranger.change(AuthRequest::UserGrantRole {
        user: "root".into(),
        role: "root".into(),
    });
    stranger.change(AuthRequest::Enable { token_key: [9; 32] });
    let caller = world.caller(&stranger.token("root"));
    assert_eq!(caller, Err(etcd::Error::InvalidAuthToken));
}

#[test]
fn a_token_that_is_used_goes_on_and_one_that_is_not_ends() {
    let limits = AuthLimits {
        token_ttl: Duration::from_secs(10),
        cached: Duration::ZERO,
        ..AuthLimits::default()
    };
    let mut world = World::enabled(Tokens::Simple, &limits);
    let token = world.token("u").into_bytes();
    let start = world.authority.0.clock.wall().0;
    let check = |world: &World, after_s: u64| {
        let caller = world.authority.check(&token, start + after_s * 1000);
        caller.is_some()
    };
    assert!(check(&world, 9));
    assert!(check(&world, 18), "nine seconds after it was used");
    assert!(check(&world, 27));
    assert!(!check(&world, 50), "not used for too long");
    // A node that has never seen it counts from when it was given out.
    let other = World::enabled(Tokens::Simple, &limits);
    assert!(!check(&other, 27));
    assert!(check(&other, 9));
    let _ = &mut world;
}

#[test]
fn a_token_that_was_checked_with_an_old_key_is_not_remembered() {
    let mut world = World::enabled(Tokens::Simple, &AuthLimits::default());
    let token = world.token("u").into_bytes();
    let key = world.authority.access().token_key();
    let now_ms = world.authority.0.clock.wall().0;
    let claims = world.authority.0.tokens.read(&token, key.as_ref()).unwrap();
    // Between the look at the signature and what follows.
    world.change(AuthRequest::Disable);
    world.change(AuthRequest::Enable { token_key: [2; 32] });
    world.authority.remember(&token, &claims, key, now_ms);
    assert!(world.authority.check(&token, now_ms).is_none());
    assert!(world.authority.seen().is_empty());
    let key = world.authority.access().token_key();
    world.authority.remember(&token, &claims, key, now_ms);
    assert_eq!(world.authority.seen().len(), 1, "with the key of now it is");
}

#[test]
fn memory_for_tokens_is_bounded() {
    let limits = AuthLimits {
        tokens: 3,
        cached_tokens: 2,
        ..AuthLimits::default()
    };
    let mut world = World::enabled(Tokens::Simple, &limits);
    for second in 0..20 {
        let access = world.authority.access();
        let now = world.authority.0.clock.wall().0 + second;
        let generation = access.generation("u").unwrap();
        let key = access.token_key();
        let token = world
            .authority
            .0
            .tokens
            .issue("u", generation, 4, now, key.as_ref());
        assert!(world.caller(&token.unwrap()).is_ok());
    }
    assert_eq!(world.authority.seen().len(), 3);
}

fn jwt(method: &str, public: Option<&str>, private: Option<&str>) -> Result<Tokens, KeyError> {
    let options = JwtOptions {
        sign_method: method.into(),
        public_key: public.map(Into::into),
        private_key: private.map(Into::into),
        ttl: Duration::from_secs(10),
    };
    let read = |path: &std::path::Path| {
        let text = match path.to_str() {
            Some("ec.pem") => include_str!("tests/ec.pem"),
            Some("ec.pub.pem") => include_str!("tests/ec.pub.pem"),
            Some("rsa.pem") => include_str!("tests/rsa.pem"),
            Some("rsa.pub.pem") => include_str!("tests/rsa.pub.pem"),
            Some("secret") => "a secret of the operator's",
            _ => return Err(std::io::ErrorKind::NotFound.into()),
        };
        Ok(text.into())
    };
    Tokens::open(&crate::configuration::AuthToken::Jwt(options), read)
}

#[test]
fn web_tokens_carry_the_revision_and_expire() {
    for (method, public, private) in [
        ("HS256", None, Some("secret")),
        ("RS256", Some("rsa.pub.pem"), Some("rsa.pem")),
        ("RS512", None, Some("rsa.pem")),
        ("PS256", None, Some("rsa.pem")),
        ("ES256", Some("ec.pub.pem"), Some("ec.pem")),
        ("ES256", None, Some("ec.pem")),
    ] {
        let tokens = jwt(method, public, private).unwrap_or_else(|error| {
            panic!("{method}: {error}");
        });
        let mut world = World::enabled(tokens, &AuthLimits::default());
        let token = world.token("u");
        let caller = world.caller(&token).unwrap().unwrap();
        assert_eq!((caller.user.as_str(), caller.revision), ("u", 4));
        // It says what it said; the replicas find out that it is old.
        world.change(password("u"));
        assert_eq!(world.caller(&token).unwrap().unwrap().revision, 4);
        let late = world.authority.0.clock.wall().0 + 11_000;
        assert!(world.authority.check(token.as_bytes(), late).is_none());
        // One signed by another method with the same key is none.
        if method.starts_with("RS") {
            let other =
                World::enabled(jwt("PS256", None, private).unwrap(), &AuthLimits::default());
            assert!(world.caller(&other.token("u")).is_err());
        }
    }
}

/// Some claims were judged otherwise than by etcd: see the library that it uses,
/// `github.com/golang-jwt/jwt/v5`, with whose answers these were compared.
#[test]
fn the_claims_of_web_tokens_are_judged_as_by_etcd() {
    let tokens = jwt("HS256", None, Some("secret")).unwrap();
    let world = World::enabled(tokens, &AuthLimits::default());
    let check = |claims: &str, now_ms: u64| {
        let claims: serde_json::Value = serde_json::from_str(claims).unwrap();
        let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of the operator's");
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
        let caller = world.authority.check(token.unwrap().as_bytes(), now_ms);
        caller.map(|(caller, _)| (caller.user, caller.revision))
    };
    let now = 1_700_000_000;
    for (times, first_s, end_s) in [
        (r#""exp":1700000010"#, 0, now + 10),
        (r#""exp":1700000010.9"#, 0, now + 10),
        (r#""exp":1.70000001e9"#, 0, now + 10),
        (r#""nbf":1700000010"#, now + 10, u64::MAX),
        (r#""nbf":1700000010.9"#, now + 10, u64::MAX),
        (r#""nbf":1700000010,"exp":1700000020"#, now + 10, now + 20),
        (r#""nbf":-5,"exp":1e15"#, 0, 1_000_000_000_000_000),
        (r#""nbf":0,"exp":0"#, 0, u64::MAX),
        (
            r#""aud":"x","iss":"y","sub":"z","iat":1800000000"#,
            0,
            u64::MAX,
        ),
        (r#""aud":["x"],"iss":1,"sub":2,"iat":"x""#, 0, u64::MAX),
    ] {
        let claims = format!(r#"{{"username":"u","revision":4,{times}}}"#);
        let check_at = |now_ms: u64| check(&claims, now_ms).is_some();
        let (first_ms, end_ms) = (first_s * 1000, end_s.saturating_mul(1000));
        assert!(check_at(first_ms), "{times}");
        assert!(check_at(end_ms - 1), "{times}");
        assert!(first_s == 0 || !check_at(first_ms - 1), "{times}");
        assert!(end_s == u64::MAX || !check_at(end_ms), "{times}");
    }
    for never in [
        r#""exp":-1"#,
        r#""exp":0.5"#,
        r#""exp":null"#,
        r#""exp":"1800000000""#,
        r#""exp":9223372036854775807"#,
        r#""nbf":null"#,
        r#""nbf":"1""#,
    ] {
        let claims = format!(r#"{{"username":"u","revision":4,{never}}}"#);
        assert_eq!(check(&claims, now * 1000), None, "{never}");
    }
    for (claims, caller) in [
        (r#"{"username":"u","revision":4.0}"#, Some(4)),
        (r#"{"username":"u","revision":4.7}"#, Some(4)),
        (r#"{"username":"u"}"#, None),
        (r#"{"username":"u","revision":"4"}"#, None),
        (r#"{"username":"u","revision":null}"#, None),
        (r#"{"revision":4}"#, None),
        (r#"{"username":7,"revision":4}"#, None),
        (r#"{"username":null,"revision":4}"#, None),
        ("null", None),
        ("[]", None),
    ] {
        let caller = caller.map(|revision| ("u".to_owned(), revision));
        assert_eq!(check(claims, now * 1000), caller, "{claims}");
    }
}

#[test]
fn a_thread_forgets_a_token_that_expires() {
    let mut cache = TokenCache::new(&AuthLimits::default());
    let caller = Arc::new(Caller {
        user: "u".into(),
        revision: 4,
    });
    cache.insert(b"token", 0, (1000, 2000), &caller);
    assert!(cache.find(b"token", 0, 1999).is_some());
    assert!(cache.find(b"token", 0, 2000).is_none());
    // What does not expire is looked at again after a while.
    cache.insert(b"other", 0, (1000, u64::MAX), &caller);
    assert!(cache.find(b"other", 0, 5999).is_some());
    assert!(cache.find(b"other", 0, 6000).is_none());
}

#[test]
fn keys_that_cannot_work_are_told_at_the_start() {
    for (method, public, private) in [
        ("RS256", Some("nothing"), None),
        ("RS256", Some("ec.pub.pem"), None),
        ("ES256", Some("ec.pub.pem"), Some("rsa.pem")),
        ("ES256", Some("rsa.pub.pem"), Some("ec.pem")),
        ("RS256", None, None),
    ] {
        let opened = jwt(method, public, private);
        assert!(opened.is_err(), "{method} {public:?} {private:?}");
    }
    // With a public key alone tokens are read, and none are given out.
    let tokens = jwt("ES256", Some("ec.pub.pem"), None).unwrap();
    let mut reader = World::enabled(tokens, &AuthLimits::default());
    let issued = reader.authority.issue("u", 0, 4);
    assert_eq!(issued, Err(TokenError::VerifyOnly));
    let signer = World::enabled(
        jwt("ES256", None, Some("ec.pem")).unwrap(),
        &AuthLimits::default(),
    );
    assert!(reader.caller(&signer.token("u")).is_ok());
}

#[test]
fn a_certificate_names_a_user_unless_a_token_does() {
    let mut world = World::enabled(Tokens::Simple, &AuthLimits::default());
    let name = CommonName("root".into());
    let token = world.token("u");
    let authority = world.authority.clone();
    let mut caller = |token: Option<&str>, name: Option<&CommonName>| {
        let token = token.map(str::as_bytes);
        let caller = authority.caller(token, name, &mut world.cache);
        caller.map(|caller| caller.map(|caller| caller.user.clone()))
    };
    assert_eq!(caller(None, Some(&name)), Ok(Some("root".into())));
    assert_eq!(caller(Some(&token), Some(&name)), Ok(Some("u".into())));
    assert!(caller(Some("bad"), Some(&name)).is_err());
    let mut headers = HeaderMap::new();
    assert_eq!(common_name_of(&headers, Some(&name)), Some(&name));
    headers.insert(FROM_GATEWAY, "application/json".parse().unwrap());
    assert_eq!(common_name_of(&headers, Some(&name)), None);
}

#[test]
fn tokens_are_found_where_clients_put_them() {
    let mut headers = HeaderMap::new();
    assert_eq!(token_of(&headers), None);
    headers.insert("authorization", "Bearer abc".parse().unwrap());
    assert_eq!(token_of(&headers), Some(&b"abc"[..]));
    headers.insert("authorization", "abc".parse().unwrap());
    assert_eq!(token_of(&headers), Some(&b"abc"[..]));
    headers.insert("token", "def".parse().unwrap());
    assert_eq!(token_of(&headers), Some(&b"def"[..]));
}

#[tokio::test]
async fn who_guesses_passwords_does_not_keep_others_from_setting_them() {
    let limits = AuthLimits {
        logins: 3,
        login_patience: Duration::from_millis(1),
        ..AuthLimits::default()
    };
    let passwords = Passwords::new(4, &limits);
    let mut guessing = Vec::new();
    for _ in 0..limits.logins {
        guessing.push(passwords.turn_to_compare().await.unwrap());
    }
    let guessed = passwords.matches("x".into(), None).await;
    assert_eq!(guessed, Err(PasswordError::Busy));
    let hash = passwords.hash("secret".into()).await.unwrap();
    drop(guessing);
    let matches = passwords.matches("secret".into(), Some(hash)).await;
    assert_eq!(matches, Ok(true));
}

#[tokio::test]
async fn passwords_are_compared_and_nobody_has_one() {
    let limits = AuthLimits {
        login_patience: Duration::from_millis(1),
        ..AuthLimits::default()
    };
    let passwords = Passwords::new(4, &limits);
    let hash = passwords.hash("secret".into()).await.unwrap();
    assert_eq!(
        passwords.matches("secret".into(), Some(hash.clone())).await,
        Ok(true)
    );
    assert_eq!(
        passwords.matches("other".into(), Some(hash)).await,
        Ok(false)
    );
    for password in ["", "secret"] {
        assert_eq!(passwords.matches(password.into(), None).await, Ok(false));
        let garbage = Some("garbage".into());
        assert_eq!(passwords.matches(password.into(), garbage).await, Ok(false));
    }
    // The hash of nobody is one: comparing takes as long as with any other.
    let nobody = std::str::from_utf8(&passwords.nobody()).unwrap().to_owned();
    assert!(bcrypt::verify("x", &nobody).is_ok());
}

/// One of 72 bytes, as generators of passwords make them, was refused.
#[tokio::test]
async fn a_password_has_up_to_72_bytes_of_any_kind() {
    let passwords = Passwords::new(4, &AuthLimits::default());
    let longest = "x".repeat(72);
    for password in [longest.as_str(), "a\0b", ""] {
        let hash = passwords.hash(password.into()).await.unwrap();
        let matches = async |other: String| {
            let hash = Some(hash.clone());
            passwords.matches(other, hash).await
        };
        assert_eq!(matches(password.into()).await, Ok(true), "{password:?}");
        assert_eq!(matches(format!("{password}x")).await, Ok(false));
        let mut shorter = password.to_owned();
        if shorter.pop().is_some() {
            assert_eq!(matches(shorter).await, Ok(false), "{password:?}");
        }
    }
    let long = "x".repeat(73);
    assert_eq!(passwords.hash(long).await, Err(PasswordError::TooLong));
    // As Go hashes them.
    for (password, hash) in [
        (
            "x".repeat(71),
            "$2a$04$2disleI/CCS1BMhjA1dOt.xmclqyoBH96Ip9SBk5y1gNhJvS52x8C",
        ),
        (
            longest,
            "$2a$04$a/5EEo48Ih0RpDUZA/z9GehVNzARMfjVIegJJfulu3PjP5IEfIsX.",
        ),
        (
            "a\0b".into(),
            "$2a$04$d9bndRpUJIbhRXgTtFlEluSQHKc3cua9Zdpa8nEIbtj67SQw6chJu",
        ),
    ] {
        let matches = passwords.matches(password, Some(hash.into())).await;
        assert_eq!(matches, Ok(true), "{hash}");
    }
}
