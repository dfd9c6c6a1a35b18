// A socket of the person who is logged in; each connection gets a fresh token of the session.
export function connect() {
  return io({
    auth: async (send) => {
      try {
        const answer = await fetch('/v1/api/socket-tokens', { method: 'POST' });
        if (answer.status === 401) location.reload();
        send({ token: (await answer.json()).data?.token ?? '' });
      } catch {
        send({ token: '' });
      }
    },
  });
}
