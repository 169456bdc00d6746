/* The program that a runtime execs: asks the agent, and becomes the stand-alone program when there is none.
 *
 * cni/shim.py does the same in the same words (cni/wire.py), four times slower. The launcher compiles this once, writes
 * paths into the compiled file, and links it to every plugin's name. It speaks no JSON: VERSION, whose answer is a constant
 * but for the caller's version, is all that it answers itself. The stand-alone program lies beside it; a copy among
 * others' plugins knows its path.
 *
 * It must not leave a call unanswered: whatever goes wrong before the answer is in hand ends in `alone`.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <arpa/inet.h>

/* The launcher finds these by their first words and writes paths over them. Volatile: they are not what they seem. */
static const volatile char agent[108] = "@wherry:socket@";
static const volatile char python[1024] = "@wherry:python@";
static const volatile char program[1024] = "@wherry:program@";

static const char *kind;

struct bytes {
    char *at;
    size_t length, room;
};

static void add(struct bytes *to, const void *from, size_t length)
{
    if (to->length + length > to->room) {
        to->room = 2 * (to->length + length) + 8192;
        to->at = realloc(to->at, to->room);
        if (!to->at)
            _exit(1);
    }
    memcpy(to->at + to->length, from, length);
    to->length += length;
}

static struct bytes whole_stdin(void)
{
    struct bytes found = {0};
    char piece[65536];
    ssize_t got;
    while ((got = read(0, piece, sizeof piece)) > 0)
        add(&found, piece, (size_t)got);
    return found;
}

/* The stand-alone program takes over, with what was on stdin on its stdin again. */
static int alone(struct bytes stdin_, const char *reason)
{
    static const char name[] = "/wherry-cni-alone";
    char beside[4096], *slash;
    const char *other = beside;
    ssize_t length = readlink("/proc/self/exe", beside, sizeof beside - sizeof name);
    beside[length > 0 ? length : 0] = 0;
    if ((slash = strrchr(beside, '/')))
        strcpy(slash, name);
    if (access(other, R_OK))
        other = (const char *)program;
    int file = memfd_create("stdin", 0);
    if (file < 0 || (stdin_.length && write(file, stdin_.at, stdin_.length) != (ssize_t)stdin_.length) ||
        lseek(file, 0, SEEK_SET) < 0 || dup2(file, 0) < 0)
        return 1;
    setenv("WHERRY_CNI_AGENT", reason, 1);
    if (!access(other, R_OK))
        execl((const char *)python, (const char *)python, "-IS", other, kind, (char *)NULL);
    printf("{\"cniVersion\":\"1.0.0\",\"code\":5,\"msg\":\"cannot start %s %s: install Wherry again\"}\n",
           (const char *)python, other);
    return 1;
}

/* The caller's cniVersion is echoed when it looks like one; a version needs no escapes and no spaces. */
static int version(struct bytes stdin_)
{
    static const char key[] = "\"cniVersion\"";
    char spoken[16] = NEWEST;
    char *found = stdin_.at ? memmem(stdin_.at, stdin_.length, key, sizeof key - 1) : NULL;
    if (found) {
        add(&stdin_, "", 1); /* moves it, perhaps */
        found = (char *)memmem(stdin_.at, stdin_.length, key, sizeof key - 1) + sizeof key - 1;
        found += strspn(found, " \t\r\n:");
        size_t length = *found == '"' ? strspn(found + 1, "0123456789.") : 0;
        if (length && length < sizeof spoken && found[1 + length] == '"') {
            memcpy(spoken, found + 1, length);
            spoken[length] = 0;
        }
    }
    printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[%s]}\n", spoken, VERSIONS);
    return 0;
}

static int send_whole(int line, const char *at, size_t length)
{
    while (length) {
        ssize_t sent = send(line, at, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        at += sent, length -= (size_t)sent;
    }
    return 1;
}

static int receive_whole(int line, char *at, size_t length)
{
    while (length) {
        ssize_t got = recv(line, at, length, 0);
        if (got <= 0)
            return 0;
        at += got, length -= (size_t)got;
    }
    return 1;
}

/* The exit status, or -1 with the reason why this process has to do the work itself. */
static int ask(struct bytes stdin_, const char **reason)
{
    struct sockaddr_un door = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 50}; /* less than a kubelet's */
    struct bytes request = {0};
    struct { char magic[4]; uint32_t status, length; } header;
    int line = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *reason = "away";
    memcpy(door.sun_path, (const char *)agent, sizeof door.sun_path);
    setsockopt(line, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(line, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(line, (struct sockaddr *)&door, sizeof door) < 0) {
        close(line);
        return -1;
    }
    add(&request, "WCN1\0\0\0", 8);
    add(&request, kind, strlen(kind) + 1);
    for (char **each = environ; *each; each++)
        add(&request, *each, strlen(*each) + 1);
    add(&request, "", 1);
    add(&request, stdin_.at ? stdin_.at : "", stdin_.length);
    uint32_t length = htonl((uint32_t)(request.length - 8));
    memcpy(request.at + 4, &length, 4);
    *reason = "lost";
    if (send_whole(line, request.at, request.length) && receive_whole(line, (char *)&header, sizeof header) &&
        !memcmp(header.magic, "WCN1", 4) && ntohl(header.length) < 1u << 26) {
        uint32_t status = ntohl(header.status), size = ntohl(header.length);
        char *said = calloc(1, size + 1);
        if (said && receive_whole(line, said, size)) {
            if (status <= 255) {
                for (uint32_t done = 0; done < size;) {
                    ssize_t wrote = write(1, said + done, size - done);
                    if (wrote <= 0)
                        return 1; /* nobody listens: the closed socket has it undone */
                    done += (uint32_t)wrote;
                }
                send_whole(line, "", 1);
                return (int)status;
            }
            *reason = said; /* the agent's own word for why it does not */
        }
    }
    close(line);
    return -1;
}

int main(int count, char **arguments)
{
    const char *command = getenv("CNI_COMMAND"), *reason, *slash;
    kind = count ? arguments[0] : "wherry-cni";
    if ((slash = strrchr(kind, '/')))
        kind = slash + 1;
    if (!command || !*command)
        return alone((struct bytes){0}, "");
    struct bytes stdin_ = whole_stdin();
    if (!strcmp(command, "VERSION"))
        return version(stdin_);
    int status = ask(stdin_, &reason);
    return status >= 0 ? status : alone(stdin_, reason);
}
