//! Users, roles and permissions.

use etcd::proto::etcdserverpb::{
    AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse,
    AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthRoleListRequest,
    AuthRoleListResponse, AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse,
    AuthStatusRequest, AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse,
    AuthUserChangePasswordRequest, AuthUserChangePasswordResponse, AuthUserDeleteRequest,
    AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse,
    AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse,
};
use tonic::transport::Channel;

use crate::failover::Kind;
use crate::stubs::auth_client::AuthClient;
use crate::{Client, Error, call};

/// One method for each call: all of them look alike.
macro_rules! calls {
    ($($(#[$comment:meta])* $kind:ident $method:ident($request:ident) -> $response:ident,)*) => {
        impl Client {
            $($(#[$comment])*
            ///
            /// # Errors
            /// See [`Error`].
            pub async fn $method(&self, request: $request) -> Result<$response, Error> {
                call!(self, Kind::$kind, AuthClient, $method, request)
            })*
        }
    };
}

calls! {
    /// Whether authentication is on.
    Read auth_status(AuthStatusRequest) -> AuthStatusResponse,
    /// Turns authentication on.
    Write auth_enable(AuthEnableRequest) -> AuthEnableResponse,
    /// Names all users.
    Read user_list(AuthUserListRequest) -> AuthUserListResponse,
    /// Tells a user's roles.
    Read user_get(AuthUserGetRequest) -> AuthUserGetResponse,
    /// Adds a user.
    Write user_add(AuthUserAddRequest) -> AuthUserAddResponse,
    /// Removes a user.
    Write user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse,
    /// Changes a user's password, which ends the user's tokens.
    Write user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse,
    /// Gives a user a role.
    Write user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse,
    /// Takes a role from a user.
    Write user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse,
    /// Names all roles.
    Read role_list(AuthRoleListRequest) -> AuthRoleListResponse,
    /// Tells a role's permissions.
    Read role_get(AuthRoleGetRequest) -> AuthRoleGetResponse,
    /// Adds a role.
    Write role_add(AuthRoleAddRequest) -> AuthRoleAddResponse,
    /// Removes a role.
    Write role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse,
    /// Gives a role a permission.
    Write role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse,
    /// Takes a permission from a role.
    Write role_revoke_permission(AuthRoleRevokePermissionRequest)
        -> AuthRoleRevokePermissionResponse,
}
