"""Who is asking. Three proofs, tried in upstream's order: a client certificate, a bearer token, none (anonymous).

    user          the answer, as a value
    certificates  CN and O of a certificate that TLS has verified
    static        tokens from a file
    jwt           signing and believing JSON Web Tokens
    accounts      ServiceAccount tokens: their claims, and whether what they are bound to still lives
    tokens        a bearer token in the request -> who that is, remembered by the token's hash
    impersonation acting as somebody else, for those who may

Somebody who shows a token that is not good is nobody: 401, also where anonymous would be let in.
"""

from apiserver.authentication.certificates import user_of
from apiserver.authentication.user import ANONYMOUS, AUTHENTICATED, MASTERS, SERVER, User

__all__ = ["ANONYMOUS", "AUTHENTICATED", "MASTERS", "SERVER", "User", "user_of"]
