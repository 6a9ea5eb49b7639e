//! etcd's Auth service: users, roles, and signing in.
//!
//! ```text
//!   UserAdd        ─▶ may he? ─▶ hash, elsewhere ─▶ the node
//!   Authenticate   ─▶ the node: hash, read linearizably ─▶ compare, elsewhere ─▶ token
//! ```
//!
//! Signing in changes nothing that is replicated, so it needs no entry in the log. If users or
//! roles change while a password is compared, it is compared once more: what was read is then no
//! longer what holds.

use bytes::Bytes;
use etcd::auth::{AuthContent, AuthRequest, AuthResponse, Credentials};
use etcd::proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use tonic::{Code, Request, Response, Status};

use crate::authority::{PasswordError, TokenError};
use crate::calls::{Calls, Identity};
use crate::etcd_service::generated::auth_server::{Auth, AuthServer};
use crate::etcd_service::{calls_of, key_value, mismatch, status};
use crate::limits::ClientLimits;

/// How often a password is compared while users and roles go on changing.
const ATTEMPTS: usize = 3;

/// The service, ready to be routed to.
pub(crate) fn service(calls: &Calls, limits: &ClientLimits) -> AuthServer<AuthService> {
    let service = AuthService {
        calls: calls.clone(),
    };
    AuthServer::new(service)
        .max_decoding_message_size(limits.receive_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// The handlers.
#[derive(Clone)]
pub(crate) struct AuthService {
    calls: Calls,
}

async fn ask(calls: &Calls, request: AuthRequest) -> Result<AuthResponse, Status> {
    match key_value(calls, etcd::Request::Auth(request)).await? {
        etcd::Response::Auth(response) => Ok(response),
        _ => Err(mismatch()),
    }
}

impl AuthService {
    /// Asks on behalf of whoever a request is from.
    async fn ask_as<T>(
        &self,
        request: Request<T>,
        make: impl FnOnce(T) -> AuthRequest,
    ) -> Result<AuthResponse, Status> {
        let calls = calls_of(&self.calls, &request);
        ask(&calls, make(request.into_inner())).await
    }

    /// The hash of a new password, for whoever may set one: hashing is work that nobody else can
    /// have done.
    async fn hash(&self, calls: &Calls, password: String) -> Result<Bytes, Status> {
        let caller = calls.caller().map_err(|error| status(&error))?;
        let authority = self.calls.authority();
        authority
            .expect_root(caller.as_deref())
            .map_err(|error| status(&error))?;
        let hash = authority.passwords().hash(password).await;
        hash.map_err(password_status)
    }

    async fn credentials(
        &self,
        user: &str,
    ) -> Result<(Option<ResponseHeader>, Credentials), Status> {
        let nobody = self.calls.on_behalf_of(Identity::default());
        let user = user.to_owned();
        let response = ask(&nobody, AuthRequest::Credentials { user }).await?;
        match response.content {
            AuthContent::Credentials(credentials) => Ok((response.header, credentials)),
            _ => Err(mismatch()),
        }
    }

    /// Checks a password and gives out a token.
    async fn sign_in(&self, name: &str, password: &str) -> Result<AuthenticateResponse, Status> {
        let authority = self.calls.authority();
        let mut attempt = 1;
        loop {
            let (header, credentials) = self.credentials(name).await?;
            let Credentials {
                password_hash,
                revision,
                generation,
            } = credentials;
            let compared = authority
                .passwords()
                .matches(password.to_owned(), password_hash);
            if !compared.await.map_err(password_status)? {
                return Err(status(&etcd::Error::AuthenticationFailed));
            }
            if authority.status().revision != revision && attempt < ATTEMPTS {
                attempt += 1;
                continue;
            }
            let token = authority.issue(name, generation, revision);
            let token = token.map_err(token_status)?;
            return Ok(AuthenticateResponse { header, token });
        }
    }
}

fn password_status(error: PasswordError) -> Status {
    match error {
        PasswordError::Busy => status(&etcd::Error::TooManyRequests),
        // As etcd words it, and codes what it does not classify.
        PasswordError::TooLong => {
            Status::new(Code::Unknown, "bcrypt: password length exceeds 72 bytes")
        }
        PasswordError::Failed => Status::internal("the password could not be looked at"),
    }
}

fn token_status(error: TokenError) -> Status {
    match error {
        TokenError::VerifyOnly => Status::new(
            Code::Unknown,
            "auth: token signing attempted with verify-only key",
        ),
        TokenError::NoKey => status(&etcd::Error::AuthNotEnabled),
        TokenError::Failed => Status::internal("the token could not be signed"),
    }
}

fn names(response: AuthResponse) -> Result<(Option<ResponseHeader>, Vec<String>), Status> {
    match response.content {
        AuthContent::Names(names) => Ok((response.header, names)),
        _ => Err(mismatch()),
    }
}

/// Writes the handlers of calls that only change something.
macro_rules! change {
    ($self:ident, $request:ident, $make:expr, $response:ident) => {{
        let AuthResponse { header, .. } = $self.ask_as($request, $make).await?;
        Ok(Response::new($response { header }))
    }};
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let token_key = crate::seed::bytes_from_system();
        let make = |_| AuthRequest::Enable { token_key };
        change!(self, request, make, AuthEnableResponse)
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        change!(self, request, |_| AuthRequest::Disable, AuthDisableResponse)
    }

    async fn auth_status(
        &self,
        _: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let response = ask(&self.calls, AuthRequest::Status).await?;
        let AuthContent::Status(status) = response.content else {
            return Err(mismatch());
        };
        Ok(Response::new(AuthStatusResponse {
            header: response.header,
            enabled: status.is_enabled,
            auth_revision: status.revision,
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let AuthenticateRequest { name, password } = request.into_inner();
        self.sign_in(&name, &password).await.map(Response::new)
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let AuthUserAddRequest {
            name,
            password,
            options,
            ..
        } = request.into_inner();
        if name.is_empty() {
            return Err(status(&etcd::Error::UserEmpty));
        }
        let no_password = options.is_some_and(|options| options.no_password);
        let password_hash = if no_password {
            None
        } else {
            Some(self.hash(&calls, password).await?)
        };
        let request = AuthRequest::UserAdd {
            name,
            password_hash,
        };
        let AuthResponse { header, .. } = ask(&calls, request).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let make = |request: AuthUserGetRequest| AuthRequest::UserGet { name: request.name };
        let (header, roles) = names(self.ask_as(request, make).await?)?;
        Ok(Response::new(AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (header, users) = names(self.ask_as(request, |_| AuthRequest::UserList).await?)?;
        Ok(Response::new(AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let make = |request: AuthUserDeleteRequest| AuthRequest::UserDelete { name: request.name };
        change!(self, request, make, AuthUserDeleteResponse)
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let calls = calls_of(&self.calls, &request);
        let AuthUserChangePasswordRequest { name, password, .. } = request.into_inner();
        let password_hash = self.hash(&calls, password).await?;
        let request = AuthRequest::UserChangePassword {
            name,
            password_hash,
        };
        let AuthResponse { header, .. } = ask(&calls, request).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let make = |request: AuthUserGrantRoleRequest| AuthRequest::UserGrantRole {
            user: request.user,
            role: request.role,
        };
        change!(self, request, make, AuthUserGrantRoleResponse)
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let make = |request: AuthUserRevokeRoleRequest| AuthRequest::UserRevokeRole {
            user: request.name,
            role: request.role,
        };
        change!(self, request, make, AuthUserRevokeRoleResponse)
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let make = |request: AuthRoleAddRequest| AuthRequest::RoleAdd { name: request.name };
        change!(self, request, make, AuthRoleAddResponse)
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let make = |request: AuthRoleGetRequest| AuthRequest::RoleGet { role: request.role };
        let response = self.ask_as(request, make).await?;
        let AuthContent::Permissions(perm) = response.content else {
            return Err(mismatch());
        };
        let header = response.header;
        Ok(Response::new(AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (header, roles) = names(self.ask_as(request, |_| AuthRequest::RoleList).await?)?;
        Ok(Response::new(AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let make = |request: AuthRoleDeleteRequest| AuthRequest::RoleDelete { role: request.role };
        change!(self, request, make, AuthRoleDeleteResponse)
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let make = |request: AuthRoleGrantPermissionRequest| AuthRequest::RoleGrantPermission {
            role: request.name,
            permission: request.perm,
        };
        change!(self, request, make, AuthRoleGrantPermissionResponse)
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let make = |request: AuthRoleRevokePermissionRequest| AuthRequest::RoleRevokePermission {
            role: request.role,
            key: request.key,
            range_end: request.range_end,
        };
        change!(self, request, make, AuthRoleRevokePermissionResponse)
    }
}
