/** Print the client's reference as JSON, from its comments: [title, text, [[signature, text]]]. */
import { readdirSync, readFileSync } from 'node:fs';
import ts from 'typescript';

const folder = new URL('src/', import.meta.url);
const GENERATED = ['operations.ts', 'schema.ts'];
// Inside of the client, though other modules import them.
const INTERNAL = ['Connection', 'Feed', 'AlertLog', 'Call', 'Parts', 'Operation', 'Request', 'Work', 'Refusal'];
INTERNAL.push('failed', 'statusError', 'waitAlone');
const files = readdirSync(folder).filter((name) => name.endsWith('.ts') && !GENERATED.includes(name));
const sources = new Map(
  files.map((name) => {
    const text = readFileSync(new URL(name, folder), 'utf8');
    return [name, ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true)];
  }),
);

const squeeze = (text) => text.replace(/\s+/g, ' ').replace(/\( /g, '(').replace(/,? \)/g, ')').trim();
const has = (node, kind) => node.modifiers?.some((modifier) => modifier.kind === kind);

function comment(node) {
  const [first] = ts.getJSDocCommentsAndTags(node);
  return first && typeof first.comment === 'string' ? first.comment : '';
}

function isInternal(node) {
  return has(node, ts.SyntaxKind.PrivateKeyword) || ts.getJSDocTags(node).some(({ tagName }) => tagName.text === 'internal');
}

/** Return a declaration's source without its body. */
function signature(node) {
  const source = node.getSourceFile().text;
  return squeeze(source.slice(node.getStart(), node.body?.getStart() ?? node.end))
    .replace(/^export /, '')
    .replace(/^(readonly|get) (\w+)(\(\))?/, '$2')
    .replace(/^(async )?function ?\* /, '')
    .replace(/^async (function )?\*? ?/, '')
    .replace(/types\./g, '')
    .replace(/ \| undefined/g, '')
    .replace(/;$/, '');
}

function members(node) {
  return node.members
    .filter((member) => !isInternal(member) && !ts.isConstructorDeclaration(member) && comment(member))
    .map((member) => [signature(member), comment(member)]);
}

/** Return the expression that reaches a class, such as `client.modules`. */
function reached(name, prefix, found) {
  const classes = [...sources.values()].flatMap(({ statements }) => statements.filter(ts.isClassDeclaration));
  const owner = classes.find((node) => node.name.text === name);
  for (const member of owner.members.filter(ts.isPropertyDeclaration)) {
    const kind = member.type?.getText();
    if (isInternal(member) || !classes.some((node) => node.name.text === kind)) continue;
    found.set(kind, `${prefix}.${member.name.text}`);
    reached(kind, `${prefix}.${member.name.text}`, found);
  }
  return found;
}
const titles = reached('LilypadClient', 'client', new Map());

function sections(source) {
  return source.statements
    .filter((node) => has(node, ts.SyntaxKind.ExportKeyword) && !INTERNAL.includes(node.name?.text))
    .flatMap((node) => {
      if (ts.isFunctionDeclaration(node) && comment(node)) return [[node.name.text, '', [[signature(node), comment(node)]]]];
      if (!ts.isClassDeclaration(node) && !ts.isInterfaceDeclaration(node)) return [];
      const found = members(node);
      const title = titles.get(node.name.text) ?? node.name.text;
      return found.length ? [[title, comment(node), found]] : [];
    });
}

const errors = sources.get('errors.ts');
const classes = errors.statements.filter(ts.isClassDeclaration).map((node) => {
  const [parent] = node.heritageClauses[0].types;
  const advice = node.members.find((member) => member.name?.text === 'advice')?.initializer?.text ?? '';
  return [`${node.name.text} extends ${parent.getText()}`, advice];
});
const order = ['client.ts', 'connection.ts', 'request.ts', 'modules.ts', 'benchmarks.ts', 'jobs.ts', 'metrics.ts'];
order.push('alerts.ts', 'webhooks.ts', 'account.ts', 'call.ts', 'realtime.ts', 'feed.ts', 'errors.ts');
const parts = order.flatMap((name) => sections(sources.get(name)));
parts.push(['Errors', '`advice` says what to do next.', classes]);
console.log(JSON.stringify(parts));
