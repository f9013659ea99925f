# Asks the guest to shut down, or cuts the power, and waits until the VM is off.
function Invoke-Operation($Request) {
    Assert-Rights
    # The power can be cut under one who waits for the guest.
    if (-not $Request.cut) { Enter-Turn $Request.turn $Request.patience }
    $clock = [System.Diagnostics.Stopwatch]::StartNew()
    $trouble = $null
    while ($true) {
        $vm = Find-Machine $Request.machine
        if ($null -eq $vm) { return @{ state = $null } }
        $state = [string]$vm.State
        if ($state -eq 'Off') { return @{ state = $state } }
        if ($state -eq 'Saved' -and -not $Request.cut) { return @{ state = $state } }
        if ($clock.ElapsedMilliseconds -ge $Request.limit) {
            if ($null -ne $trouble) { throw $trouble }
            return @{ state = $state }
        }
        try {
            if ($state -eq 'Saved') {
                Hyper-V\Remove-VMSavedState -VM $vm
            } elseif ($Request.cut) {
                Hyper-V\Stop-VM -VM $vm -TurnOff -Force
            } elseif ($state -eq 'Paused') {
                Hyper-V\Resume-VM -VM $vm
            } elseif ($state -eq 'Running') {
                # Without -Force it might ask a question that nobody answers.
                Hyper-V\Stop-VM -VM $vm -Force
            } else {
                Start-Sleep -Milliseconds $Request.pause
            }
        } catch {
            # A guest that still boots cannot be asked yet; rights do not come by waiting.
            if ([string]$_.CategoryInfo.Category -eq 'PermissionDenied') { throw $_ }
            $trouble = $_
            Start-Sleep -Milliseconds $Request.pause
        }
    }
}
